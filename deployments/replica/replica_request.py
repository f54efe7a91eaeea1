"""One live request of a replica: data only, changed on the event loop."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import msgspec

from cluster.adapters.residency.residency_types import Lease
from cluster.domain.decision import RoutingDecision
from cluster.domain.ids import AdapterDigest, RequestId, TenantId
from cluster.domain.request import GenerationChunk, GenerationRequest, Usage
from deployments.link.link_messages import Reroute, Submit


@dataclass(slots=True)
class LaterSpan:
    """A span that a re-routed request continued with."""

    start: int  # tokens of the completion before it
    decision: RoutingDecision


@dataclass(slots=True)
class Coming:
    """A re-route that has not begun: it waits for its adapters, or for its token."""

    message: Reroute
    task: asyncio.Task[None] | None = None
    decision: RoutingDecision | None = None
    lease: Lease | None = None  # from then on the engine may know of it


@dataclass(slots=True)
class ReplicaRequest:
    """A request from its arrival until its last chunk."""

    submit: Submit
    admission: asyncio.Task[None] | None = None
    lease: Lease | None = None  # on the adapters of its newest span at least
    earlier: list[Lease] = field(default_factory=list)  # of spans before, until released
    decision: RoutingDecision | None = None  # of its first span; None: not read yet
    later: list[LaterSpan] = field(default_factory=list)  # by start
    coming: Coming | None = None
    in_engine: bool = False  # else it is counted as waiting
    before: Usage | None = None  # of its last time in the engine, which handed it back
    cancelled: bool = False  # while neither the engine nor a task had it
    arrived: float = 0.0  # monotonic, seconds
    admitted: float = 0.0  # to the engine, before it began there; monotonic, seconds; 0: not yet
    tokens: int = 0  # of its completion, beyond those that ``submit`` has

    @property
    def id(self) -> RequestId:
        """Return the sequence's id, which its chunks carry."""
        return self.submit.request_id

    @property
    def tenant(self) -> TenantId:
        """Return the tenant whose request it is."""
        return self.submit.tenant

    @property
    def weight(self) -> float:
        """Return its tenant's weight when it was sent."""
        return self.submit.request.weight

    @property
    def http_request(self) -> str:
        """Return the id of the HTTP request that it belongs to, for logs."""
        return self.submit.request.http_request

    @property
    def prompt(self) -> tuple[int, ...]:
        """Return the prompt's token ids."""
        return self.submit.request.prompt_token_ids

    @property
    def resumed(self) -> tuple[int, ...]:
        """Return the tokens of its completion that it came with."""
        return self.submit.request.resumed_token_ids

    @property
    def deadline_at(self) -> float | None:
        """Return its deadline in monotonic seconds of this process."""
        left = self.submit.time_left_s
        return None if left is None else self.arrived + left

    def generation_request(self) -> GenerationRequest:
        """Return the request for the engine; its decision has been read."""
        assert self.decision is not None
        return replace(self.submit.request, decision=self.decision, deadline_at=self.deadline_at)

    def resume_after(self, token_ids: tuple[int, ...], usage: Usage) -> None:
        """Note the completion so far, which the engine computes again, and what it has counted."""
        request = replace(self.submit.request, resumed_token_ids=token_ids)
        self.submit = msgspec.structs.replace(self.submit, request=request)
        self.before, self.tokens = usage, 0

    @property
    def usage(self) -> Usage:
        """Return its usage while it is not in the engine."""
        before = self.before or Usage(len(self.prompt), 0)
        return replace(before, completion_tokens=len(self.resumed))

    @property
    def newest(self) -> RoutingDecision | None:
        """Return the decision that its next tokens are computed with."""
        return self.later[-1].decision if self.later else self.decision

    @property
    def digests(self) -> tuple[AdapterDigest, ...]:
        """Return the adapters of all its spans, each once."""
        return tuple(dict.fromkeys(d for decision in self.decisions for d in decision.digests))

    @property
    def decisions(self) -> Iterator[RoutingDecision]:
        """Yield the decisions of all its spans, in order."""
        if self.decision is not None:
            yield self.decision
        for span in self.later:
            yield span.decision

    def may_use(self, digest: AdapterDigest) -> bool:
        """Report whether it has been decided on this version, or may have been."""
        coming = self.coming
        if self.decision is None or digest in self.digests:
            return True
        return coming is not None and (coming.decision is None or digest in coming.decision.digests)

    def with_wait(self, chunk: GenerationChunk) -> GenerationChunk:
        """Return its last chunk with the wait for adapters added to the engine's own wait."""
        usage = chunk.usage
        if usage is None or usage.queued_s is None:
            return chunk
        queued = usage.queued_s + self.admitted - self.arrived
        return replace(chunk, usage=replace(usage, queued_s=queued))

    def take_leases(self) -> list[Lease]:
        """Remove all its leases and return them, to be released."""
        taken = [*self.earlier, *([] if self.lease is None else [self.lease])]
        self.lease, self.earlier = None, []
        if self.coming is not None and self.coming.lease is not None:
            taken.append(self.coming.lease)
            self.coming.lease = None
        return taken
