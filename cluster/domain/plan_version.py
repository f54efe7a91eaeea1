"""Orders the plans of all controllers' lives."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class PlanVersion:
    """Names one plan for a replica: later ones compare greater, whichever controller made them."""

    epoch: int = 0  # of the controller's life; 0: no controller
    number: int = 0  # counts the plans of that life

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.epoch}.{self.number}"


NO_PLAN = PlanVersion()
"""Stands for the time before any controller has sent a replica a plan."""
