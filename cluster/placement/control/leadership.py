"""Knows whether this controller may act: only the one of the highest epoch may."""


class Leadership:
    """One owner. An epoch is the number of a controller's life; 0 before it has one."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._highest = epoch

    @property
    def highest(self) -> int:
        """Return the highest epoch that is known of."""
        return self._highest

    @property
    def leads(self) -> bool:
        """Return whether this controller may act."""
        return 0 < self.epoch == self._highest

    @property
    def words(self) -> str:
        """Say whether this controller may act, and why not."""
        if self.leads:
            return "leads"
        if self.epoch == 0:
            return "passive: it has no epoch yet, since Redis does not answer"
        return f"passive: another controller has the higher epoch {self._highest}"

    def take(self, epoch: int) -> None:
        """Take in this controller's new epoch."""
        self.epoch = epoch
        self.learn(epoch)

    def learn(self, epoch: int) -> None:
        """Take in an epoch that a controller has; a higher one ends this controller's right."""
        self._highest = max(self._highest, epoch)
