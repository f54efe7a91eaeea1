"""Measured cases: the adapters of each request of a batch, and the number that is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.errors import ConfigError

Mixture = tuple[tuple[int, float], ...]
"""(adapter number, weight) terms of one request; empty is the base alone."""

POOL = 16
"""Adapters that mixtures are drawn from."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load, for any batch.

    Request i of a batch has ``terms`` adapters of the ``loaded`` ones. With one term they are dealt
    evenly over all that are loaded, so that 16 requests over 64 adapters use every fourth slot.
    """

    name: str
    title: str  # for people
    loaded: int  # adapters in the bank
    terms: int  # adapters of one request; 0: the base alone
    blended: bool = False  # weights differ from 1, and from request to request

    def mixtures(self, batch: int) -> tuple[Mixture, ...]:
        """Make one mixture per request."""
        return tuple(self._mixture(request, batch) for request in range(batch))

    def fits(self, batch: int) -> bool:
        """Check if the case says more at this batch than the one with fewer adapters.

        Loaded adapters beyond four for each request change nothing but their distance in memory.
        """
        return self.terms == 0 or self.blended or self.loaded <= 4 * batch

    def _mixture(self, request: int, batch: int) -> Mixture:
        if self.terms == 0:
            return ()
        if not self.blended:
            stride = max(1, self.loaded // batch)
            return ((request * stride % self.loaded, 1.0),)
        # 2/3 and more for one term, 0.4 0.3 0.2 0.1 and thereabouts for four.
        whole = self.terms * (self.terms + 1) / 2 + 0.5
        return tuple(
            ((request + term) % self.loaded, (self.terms - term + request / (2 * batch)) / whole)
            for term in range(self.terms)
        )


BASE = Case("base", "base", 0, 0)

CASES: tuple[Case, ...] = (
    BASE,
    Case("idle-16", "base, 16 adapters idle", 16, 0),
    Case("adapters-1", "1 adapter", 1, 1),
    Case("adapters-4", "4 adapters", 4, 1),
    Case("adapters-16", "16 adapters", 16, 1),
    *(Case(f"mixture-{k}", f"mixtures of {k}", POOL, k, blended=True) for k in (1, 2, 4, 8)),
    Case("adapters-64", "64 adapters", 64, 1),
)
"""In the order in which a round goes through them: the number of loaded adapters grows."""

QUICK = ("base", "idle-16", "adapters-16", "mixture-4")
BATCHES = (1, 4, 8, 16, 32)
QUICK_BATCHES = (1, 16)


def choose_cases(names: Sequence[str]) -> tuple[Case, ...]:
    """Choose the named cases in the table's order; the base is always among them, for the ratios.

    Raises:
        ConfigError: a name that no case has; the message lists those there are.
    """
    known = {case.name for case in CASES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"--only: no case is called {', '.join(map(repr, unknown))}; "
            f"there are {', '.join(case.name for case in CASES)}"
        )
    return tuple(case for case in CASES if case is BASE or case.name in names)


def case_named(name: str) -> Case:
    """Find one case of the table. Raises KeyError for an unknown name."""
    return {case.name: case for case in CASES}[name]
