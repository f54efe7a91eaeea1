"""The text that ``/metrics`` answers."""

from collections import Counter

from cluster.domain.request import Outcome


class Metrics:
    """One answer of ``/metrics``, parsed."""

    def __init__(self, text: str) -> None:
        self._lines = [line for line in text.splitlines() if not line.startswith("#")]

    def total(self, name: str, **labels: str) -> float:
        """Sum a metric's samples that have these labels."""
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in self._lines
            if line.startswith((f"{name} ", f"{name}{{"))
            and all(f'{key}="{value}"' in line for key, value in labels.items())
        )

    def outcomes(self) -> Counter[Outcome]:
        """Count ``braid_requests_total`` by outcome."""
        return Counter(
            {item: int(self.total("braid_requests_total", outcome=item)) for item in Outcome}
        )
