"""Explains a pick: every candidate's cost and every refusal."""

from dataclasses import dataclass
from typing import Literal

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.errors import BraidError, Overloaded, ReplicaLost
from cluster.placement.picking.cost import Terms
from cluster.placement.picking.filters import QueueBound

DecidedBy = Literal["cost", "home", "guard", "random"]


@dataclass(frozen=True, slots=True)
class PickCandidate:
    """One replica as a pick saw it."""

    replica_id: ReplicaId
    refused_by: str | None  # name of the filter, or None
    terms: Terms | None  # None where a hard filter refused it
    load: int  # requests queued, running and on the way
    age: float  # seconds since it was heard of


@dataclass(frozen=True, slots=True)
class Explanation:
    """Explains why a replica was picked, or why none was."""

    digests: tuple[AdapterDigest, ...]
    chosen: ReplicaId | None
    decided_by: DecidedBy
    """``cost``: it costs least. ``home``: it is the first of the set's order among those that cost
    about as much, or one of the set's homes while nobody has its adapters. ``guard``: a soft filter
    refused one that costs less. ``random``: they refused everybody, and this is the better of two.
    """
    candidates: tuple[PickCandidate, ...]  # the chosen one, others by cost, the refused by id
    known: int  # replicas in all

    @property
    def refusals(self) -> dict[str, int]:
        """Return the candidates refused, by filter."""
        counts: dict[str, int] = {}
        for candidate in self.candidates:
            if candidate.refused_by is not None:
                counts[candidate.refused_by] = counts.get(candidate.refused_by, 0) + 1
        return counts


def nobody(refusals: dict[str, int]) -> BraidError:
    """Return the error that says why no replica can take a request."""
    if not refusals:
        return ReplicaLost("no replica is ready")
    listed = ", ".join(f"{count} {name}" for name, count in sorted(refusals.items()))
    if QueueBound.name in refusals:
        return Overloaded(f"no replica has room in its queue ({listed})")
    return ReplicaLost(f"no replica can take the request ({listed})")
