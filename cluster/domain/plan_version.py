"""Orders the plans of all controllers' lives."""

from typing import NamedTuple


class PlanVersion(NamedTuple):
    """Names one plan for a replica: later ones compare greater, whichever controller made them."""

    epoch: int = 0  # of the controller's life; 0: no controller
    number: int = 0  # counts the plans of that life


NO_PLAN = PlanVersion()
"""What a replica obeys before any controller has sent it a plan."""
