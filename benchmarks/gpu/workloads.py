"""Mixtures that the rows of a measured step ask for."""

from dataclasses import dataclass

from benchmarks.engine.cases import Mixture
from cluster.domain.request import SamplingParams

RANK = 16
"""Of every adapter."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A mixture for each row, dealt from so many adapters in turn."""

    name: str
    adapters: int = 0
    terms: int = 1

    def mixture(self, row: int, slots: int) -> Mixture:
        """Return a row's mixture in a bank of so many slots."""
        among = min(self.adapters, slots)
        if not among:
            return ()
        terms = min(self.terms, among)
        return tuple(((terms * row + term) % among, 1.0 / terms) for term in range(terms))

    def mixtures(self, rows: int, slots: int) -> list[Mixture]:
        """Return the mixtures of so many rows."""
        return [self.mixture(row, slots) for row in range(rows)]

    def distinct(self, rows: int, slots: int) -> int:
        """Count the adapters that so many rows read."""
        return len({slot for mixture in self.mixtures(rows, slots) for slot, _ in mixture})


BASE = Workload("base")
ONE = Workload("1 adapter", 1)
MIXED = Workload("4 of 16", 16, 4)
WORKLOADS = (
    BASE,
    ONE,
    Workload("16 adapters", 16),
    Workload("64 adapters", 64),
    MIXED,
    Workload("4 of 64", 64, 4),
)

SAMPLED = SamplingParams(max_tokens=4096, temperature=0.8, top_p=0.95, ignore_eos=True)
"""Of steps that draw their tokens."""
