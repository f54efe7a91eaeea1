"""Remembers how long something has been wanted without a break."""


class WishAge:
    """The time and the most modest of wishes that agree; one owner."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._modest = 0

    def reset(self) -> None:
        """Forget the wish: it has been granted, or it has ended."""
        self._since = None

    def wait(self, now: float) -> float:
        """Note that it is wanted at ``now``; returns for how many seconds it has been."""
        if self._since is None or now < self._since:
            self._since = now
        return now - self._since

    def least(self, wanted: int, now: float) -> tuple[int, float]:
        """Note a wish for at least ``wanted``; returns the least one so far, and its seconds."""
        self._modest = wanted if self._since is None else min(self._modest, wanted)
        return self._modest, self.wait(now)

    def most(self, wanted: int, now: float) -> tuple[int, float]:
        """Note a wish for at most ``wanted``; returns the highest one so far, and its seconds."""
        self._modest = wanted if self._since is None else max(self._modest, wanted)
        return self._modest, self.wait(now)
