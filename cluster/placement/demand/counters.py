"""Counts a front's requests by tenant and adapter set."""

from cluster.placement.demand.demand import DemandKey, DemandTotals


class DemandCounters:
    """Totals of one front since it started, for at most ``most`` keys; one owner."""

    def __init__(self, most: int = 8192) -> None:
        self._most = most

    def arrive(self, key: DemandKey, prompt_tokens: int) -> None:
        """Count a request whose decision is known."""

    def refuse(self, key: DemandKey) -> None:
        """Count that a request, counted as arrived, was refused."""

    def start_answer(self, key: DemandKey, waited_s: float) -> None:
        """Count a first token."""

    def finish(self, key: DemandKey, generated_tokens: int) -> None:
        """Count an end, whatever it was."""

    def changed_since(self, sequence: int) -> tuple[DemandTotals, ...]:
        """Return the totals that changed after report ``sequence`` was composed."""
        return ()

    def compose(self, sequence: int) -> None:
        """Note that report ``sequence`` is composed now."""
