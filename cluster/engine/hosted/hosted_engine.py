"""An engine in another process: takes requests from any thread, and hands them to the host.

The promises to callers are those of `cluster.engine.port.Engine`. Sequences keep the adapters that
they begin with: what names a gate, a layer router or several spans is refused, and so is a change
on the way. When the host ends, every live request ends with the error code of a lost replica.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from cluster.clock import Clock
from cluster.domain.ids import RequestId, Slot, TenantId
from cluster.domain.request import GenerationRequest, Usage
from cluster.engine.engine_counters import EngineStats
from cluster.engine.hosted.host_requests import check_request
from cluster.engine.hosted.hosted_requests import HostedRequests, HostedSequence
from cluster.engine.hosted.hosted_slots import HostedSlots
from cluster.engine.hosted.relay_loop import RelayLoop
from cluster.engine.mixing import Mixing
from cluster.engine.sampling.grammar import GrammarCompiler
from cluster.engine.sampling.sampler import check_sampling
from cluster.engine.sequence import EngineSequence
from cluster.engine.spans import Span
from cluster.errors import EngineError, ReplicaLost, RequestError


class HostedEngine:
    """Implements `cluster.engine.port.Engine` with a host that runs.

    Args:
        requests: the books, shared with the loop.
        loop: relays between them and the host, in a thread that runs.
        slots: of its adapters.
        max_model_len: longest prompt plus completion, in tokens.
        eos_token_ids: the model's end-of-sequence tokens.
        clock: time of deadlines and of the heartbeat.
        grammars: checks grammars before the host compiles them.
    """

    def __init__(
        self,
        *,
        requests: HostedRequests,
        loop: RelayLoop,
        slots: HostedSlots,
        max_model_len: int,
        eos_token_ids: frozenset[int],
        clock: Clock,
        grammars: GrammarCompiler,
    ) -> None:
        self.max_model_len = max_model_len
        self._requests = requests
        self._loop = loop
        self._slots = slots
        self._eos_token_ids = eos_token_ids
        self._clock = clock
        self._grammars = grammars

    def start(self) -> None:
        """Begin to serve, as in `Engine`."""
        with self._requests.changed:
            if self._requests.started:
                raise EngineError("the engine was started before; build another one")
            self._requests.started = True
        self._loop.wake()

    def submit(
        self,
        request: GenerationRequest,
        namespace: str,
        adapters: tuple[tuple[Slot, float], ...],
        mixing: Mixing | None = None,
        spans: Sequence[Span] = (),
        *,
        before: Usage | None = None,
    ) -> None:
        """Take a request, as in `Engine`."""
        check_sampling(request.sampling)
        named = self._slots.named(adapters)
        check_request(request, mixing, spans, self._requests.vocab_size)
        sequence = EngineSequence.create(
            request,
            namespace=namespace,
            adapters=adapters,
            stop_token_ids=self._eos_token_ids,
            max_model_len=self.max_model_len,
            before=before,
        )
        self.compile_grammar(request)
        sequence.submitted_at = self._clock.monotonic()
        with self._requests.changed:
            if self._requests.stopping:
                raise ReplicaLost("the replica is stopping")
            self._requests.add(HostedSequence(sequence, named))
        self._loop.wake()

    def compile_grammar(self, request: GenerationRequest) -> None:
        """Check a request's grammar, as in `Engine`; the host compiles it again."""
        sampling = request.sampling
        if not sampling.grammar:
            return
        if sampling.ignore_eos or sampling.min_tokens:
            field = "ignore_eos" if sampling.ignore_eos else "min_tokens"
            raise RequestError(f"{field}: not together with a grammar", param=field)
        self._grammars.start(sampling.grammar, request.resumed_token_ids)

    def cancel(self, request_id: RequestId) -> bool:
        """End a request, as in `Engine`."""
        with self._requests.changed:
            if request_id not in self._requests.live:
                return False
            self._requests.cancelled.append(request_id)
        self._loop.wake()
        return True

    def withdraw(self, request_id: RequestId) -> bool:
        """Take a request back that has not begun, as in `Engine`; one that has stays here."""
        with self._requests.changed:
            return self._requests.withdraw(request_id)

    def reroute(
        self,
        request_id: RequestId,
        namespace: str,  # noqa: ARG002 - the port's
        adapters: tuple[tuple[Slot, float], ...],
        *,
        after: int,  # noqa: ARG002
    ) -> int | None:
        """Refuse to change the adapters of a live request."""
        self._slots.named(adapters)
        with self._requests.changed:
            if request_id not in self._requests.live:
                return None
        raise EngineError(
            "engine.kind 'vllm' does not change the adapters of a sequence on the way"
        )

    def release_before(self, request_id: RequestId, start: int) -> bool:  # noqa: ARG002
        """Return False: a sequence needs its adapters to the end."""
        return False

    def stop(self, *, drain: bool, timeout_s: float | None = None) -> bool:
        """Refuse new requests and end, as in `Engine`; the host's process ends then, too."""
        with self._requests.changed:
            self._requests.stopping = True
            if not drain or not self._requests.started:
                self._requests.aborting = True
        self._loop.wake()
        return self._loop.join(timeout_s)

    def stats(self) -> EngineStats:
        """Return the numbers of this moment, as in `Engine`."""
        with self._requests.changed:
            return EngineStats(
                running=len(self._requests.sent),
                waiting=len(self._requests.order),
                kv_blocks_total=self._requests.kv_blocks,
                kv_blocks_free=self._loop.kv_free,
                preemptions=self._loop.preemptions,
                prefix_age_s=0.0,
                counters=dataclasses.replace(self._loop.counters),
            )

    def backlog(self) -> Mapping[TenantId, int]:
        """Return the tokens of prompts still to be computed, as in `Engine`."""
        with self._requests.changed:
            return self._requests.backlog()

    def stalled_for(self) -> float:
        """Return the seconds since the host last showed life, as in `Engine`."""
        return self._loop.stalled_for()

    def check_integrity(self) -> None:
        """Check the books of requests, as in `Engine`; the host's are counted when it ends."""
        with self._requests.changed:
            self._requests.check_integrity()
            self._loop.check_integrity()
