"""Running requests that go on with other adapters.

The new adapters are leased, and so loaded, while decoding goes on with the old ones; then the
engine is told from which token on. Once that token is computed the lease is the request's own, and
the one before ends as soon as the engine can do without. A re-route that comes to nothing leaves
the request as it is, and is answered with a reason.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from cluster.adapters.residency.manager import AdapterManager
from cluster.adapters.residency.residency_types import Lease
from cluster.domain.decision import RoutingDecision
from cluster.domain.ids import AdapterDigest
from cluster.domain.request import GenerationChunk
from cluster.engine.port import Engine
from cluster.errors import BraidError, EngineError
from deployments.link.link_messages import Reroute, Submit
from deployments.replica.mixing import DecisionMixing
from deployments.replica.replica_request import Coming, LaterSpan, Live
from deployments.replica.request_notes import ids_of
from deployments.replica.spans import completion_span

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class RerouteCounters:
    """Cumulative numbers for metrics."""

    reroutes_applied: int = 0
    reroutes_refused: int = 0  # the request kept its adapters
    replays_reduced: int = 0  # computed again with the newest adapters alone

    def as_counters(self) -> tuple[tuple[str, float], ...]:
        """By name."""
        return tuple((name, float(getattr(self, name))) for name in self.__slots__)


class Rerouting:
    """The re-routes of one replica's requests, on its event loop.

    Args:
        read: the checked decision of a signed copy that came for a request.
        hold: a lease for a request, its adapters being known here; None after its deadline.
        is_live: whether a request has not ended.
        deliver: hands chunks to the links.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        adapters: AdapterManager,
        mixing: DecisionMixing,
        read: Callable[[Submit, bytes], Awaitable[RoutingDecision]],
        hold: Callable[[Live, tuple[AdapterDigest, ...]], Awaitable[Lease | None]],
        is_live: Callable[[Live], bool],
        deliver: Callable[[list[GenerationChunk]], None],
    ) -> None:
        self._engine = engine
        self._adapters = adapters
        self._mixing = mixing
        self._read = read
        self._hold = hold
        self._is_live = is_live
        self._deliver = deliver
        self.counters = RerouteCounters()

    def ask(self, live: Live, message: Reroute) -> None:
        """Begin a re-route; it ends with its first token or with a refusal, or with the request."""
        if live.coming is not None:
            self._tell(live, "another re-route of the request is on its way")
            return
        live.coming = Coming(message)
        self._start(live, live.coming)

    def resume(self, live: Live) -> None:
        """The request has come into the engine, perhaps again."""
        coming = live.coming
        if coming is not None and coming.task is not None and coming.task.done():
            self._start(live, coming)

    def begun(self, live: Live, start: int) -> None:
        """The engine has computed the first token with the new adapters; ``start`` tokens of the
        completion come before it."""
        coming = live.coming
        assert coming is not None
        assert coming.decision is not None
        live.coming = None
        if live.lease is not None:
            live.earlier.append(live.lease)
        live.lease = coming.lease
        live.later.append(LaterSpan(start, coming.decision))
        self.counters.reroutes_applied += 1

    def let_go(self, live: Live) -> None:
        """End the leases of earlier spans, unless the engine still needs them."""
        if live.earlier and self._engine.release_before(
            live.submit.request_id, live.later[-1].start
        ):
            earlier, live.earlier = live.earlier, []
            for lease in earlier:
                self._adapters.release(lease)

    @staticmethod
    def stop(live: Live) -> None:
        """The request ends: so does what it waits for."""
        if live.coming is not None and live.coming.task is not None:
            live.coming.task.cancel()

    def _start(self, live: Live, coming: Coming) -> None:
        coming.task = asyncio.create_task(self._prepare(live, coming))

    async def _prepare(self, live: Live, coming: Coming) -> None:
        """Lease the adapters, then tell the engine. After each wait the request may have ended, or
        have left the engine: then nothing is held while it waits for its other adapters."""
        try:
            decision = await self._read(live.submit, coming.message.signed_decision)
            if not self._is_live(live):
                return
            coming.decision = decision
            lease = await self._hold(live, decision.digests)
            if lease is None:
                return
            if not (self._is_live(live) and live.in_engine):
                self._adapters.release(lease)
                return
            coming.lease = lease
            self._tell_engine(live, coming, decision, lease)
        except BraidError as error:
            self._refuse(live, coming, error.message)
        except Exception as error:
            log.error("replica.reroute_failed", **ids_of(live), exc_info=error)
            self._refuse(live, coming, "the replica could not re-route it")

    def _tell_engine(
        self, live: Live, coming: Coming, decision: RoutingDecision, lease: Lease
    ) -> None:
        prompt = live.submit.request.prompt_token_ids
        span, mixing = completion_span(
            self._mixing, self._adapters, decision, lease, prompt, len(prompt)
        )
        if mixing is not None:
            raise EngineError(f"router {decision.router!r} weighs adapters within the model")
        # None where it has just ended or left the engine, which will be heard of.
        self._engine.reroute(
            live.submit.request_id,
            span.namespace,
            span.adapters,
            after=coming.message.after,
        )

    def _refuse(self, live: Live, coming: Coming, reason: str) -> None:
        if coming.lease is not None:
            self._adapters.release(coming.lease)
            coming.lease = None
        if self._is_live(live) and live.coming is coming:
            live.coming = None
            self._tell(live, reason)

    def _tell(self, live: Live, reason: str) -> None:
        self.counters.reroutes_refused += 1
        log.warning("replica.reroute_refused", **ids_of(live), reason=reason)
        self._deliver([GenerationChunk(live.submit.request_id, reroute_error=reason)])
