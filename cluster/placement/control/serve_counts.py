"""The replica counts that Serve keeps."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServeCounts:
    """Serve's account of the replicas."""

    target: int  # that are to run
    running: int
    starting: int

    @property
    def counted(self) -> int:
        """Return all replicas that exist or are about to."""
        return self.running + self.starting
