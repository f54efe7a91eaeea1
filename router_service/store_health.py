"""Remembers whether the decision store answered when it was last asked."""


class StoreHealth:
    """Tells callers that do not wait for the store how it stands."""

    def __init__(self) -> None:
        self.is_away = False

    def answered(self) -> None:
        """Note that the store answered."""
        self.is_away = False

    def failed(self) -> None:
        """Note that the store did not answer."""
        self.is_away = True
