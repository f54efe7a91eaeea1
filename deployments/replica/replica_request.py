"""One live request of a replica: data only, changed on the event loop."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from cluster.adapters.residency.pool_types import Lease
from cluster.domain.decision import RoutingDecision
from cluster.domain.ids import AdapterDigest
from deployments.link.link_messages import Reroute, Submit


@dataclass(slots=True)
class LaterSpan:
    """What a re-routed request went on with."""

    start: int  # tokens of the completion before it
    decision: RoutingDecision


@dataclass(slots=True)
class Coming:
    """A re-route that has not begun: it waits for its adapters, or for its token."""

    message: Reroute
    task: asyncio.Task[None] | None = None
    decision: RoutingDecision | None = None
    lease: Lease | None = None  # from then on the engine may have been told


@dataclass(slots=True)
class Live:
    """A request from its arrival until its last chunk."""

    submit: Submit
    admission: asyncio.Task[None] | None = None
    lease: Lease | None = None  # on the adapters of its newest span at least
    earlier: list[Lease] = field(default_factory=list)  # of spans before, until let go
    decision: RoutingDecision | None = None  # of its first span; None: not read yet
    later: list[LaterSpan] = field(default_factory=list)  # by start
    coming: Coming | None = None
    in_engine: bool = False  # else it is counted as waiting
    returned: bool = False  # was in the engine and is to go on there
    cancelled: bool = False  # while nobody could say where it was
    arrived: float = 0.0  # monotonic, seconds
    admitted: float = 0.0  # to the engine, first; monotonic, seconds; 0 before
    tokens: int = 0
    booked: int = 0  # of ``tokens``, that were credited to their adapters

    @property
    def newest(self) -> RoutingDecision | None:
        """What its next tokens are computed with."""
        return self.later[-1].decision if self.later else self.decision

    @property
    def digests(self) -> tuple[AdapterDigest, ...]:
        """Of all its spans, each once."""
        return tuple(dict.fromkeys(d for decision in self.decisions for d in decision.digests))

    @property
    def decisions(self) -> Iterator[RoutingDecision]:
        """Of all its spans, in order."""
        if self.decision is not None:
            yield self.decision
        for span in self.later:
            yield span.decision

    def leases(self) -> list[Lease]:
        """Take all its leases out, to release them."""
        taken = [*self.earlier, *([] if self.lease is None else [self.lease])]
        self.lease, self.earlier = None, []
        if self.coming is not None and self.coming.lease is not None:
            taken.append(self.coming.lease)
            self.coming.lease = None
        return taken
