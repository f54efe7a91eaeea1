"""The torch engine: takes requests from any thread, and owns the thread that steps.

Life of a request: ``submit`` hands it to the scheduler in the caller's thread, under the lock, so a
refusal is raised to the caller. From then on its chunks come from the step thread only
(`StepLoop`), in order. The promises to callers are those of `cluster.engine.port.Engine`.

A request may continue with other adapters (``reroute``): the chunk with the first token computed
with them has ``span_start``. From then on ``release_before`` frees those it had before. Should it
then lose its KV to others, it is handed back through ``on_returned`` in place of a last chunk;
its owner has the adapters of all its spans and submits it again with the tokens it has. So is one
that ``withdraw`` asks for after it has begun, once it waits.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence

from cluster.clock import Clock
from cluster.domain.ids import RequestId, Slot, TenantId
from cluster.domain.request import GenerationRequest, Usage
from cluster.engine.engine_counters import EngineStats
from cluster.engine.engine_requests import EngineRequests
from cluster.engine.mixing import Mixing
from cluster.engine.port import OnChunks, OnReturned
from cluster.engine.sampling.grammar import GrammarCompiler, TokenGrammar
from cluster.engine.sampling.sampler import check_sampling
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.scheduler import Scheduler
from cluster.engine.sequence import EngineSequence
from cluster.engine.spans import Span
from cluster.engine.step_loop import StepLoop
from cluster.engine.steps import Runner
from cluster.errors import EngineError, ReplicaLost, RequestError


class TorchEngine:
    """Implements `cluster.engine.port.Engine` with one scheduler and one runner."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        pool: BlockPool,
        runner: Runner,
        max_model_len: int,
        eos_token_ids: frozenset[int],
        clock: Clock,
        on_chunks: OnChunks,
        new_seed: Callable[[], int],
        grammars: GrammarCompiler | None = None,
        on_returned: OnReturned | None = None,
    ) -> None:
        """Build an engine that is not running yet; see ``start``.

        Args:
            scheduler: decides each step; nothing else may touch it.
            pool: the scheduler's blocks.
            runner: computes each step.
            max_model_len: longest prompt plus completion, in tokens.
            eos_token_ids: the model's end-of-sequence tokens.
            clock: time of steps and of the heartbeat.
            on_chunks: receives each step's chunks in the step thread; should return at once.
            new_seed: a seed for each request that has none.
            grammars: for requests with a grammar; without it they are refused.
            on_returned: receives a request that is handed back, with all tokens of its completion
                and its usage, in the step thread, after its chunks; without it no adapters are
                released early.
        """
        self.max_model_len = max_model_len
        self.eos_token_ids = eos_token_ids
        self._runner = runner
        self._clock = clock
        self._new_seed = new_seed
        self._grammars = grammars
        self._may_return = on_returned is not None
        self._live = EngineRequests(scheduler, pool)
        self._loop = StepLoop(self._live, runner, clock, on_chunks, on_returned)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the step thread, as in `Engine`."""
        if self._thread is not None:
            raise EngineError("the engine was started before; build another one")
        self._thread = threading.Thread(target=self._loop.run, name="engine-step", daemon=True)
        self._thread.start()

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
        for terms in (adapters, *(span.adapters for span in spans)):
            self._runner.check_adapters(terms)
        if mixing is not None:
            self._runner.check_mixing(len(adapters), mixing)
        sequence = EngineSequence.create(
            request,
            namespace=namespace,
            adapters=adapters,
            stop_token_ids=self.eos_token_ids,
            max_model_len=self.max_model_len,
            whole_prefill=mixing is not None and mixing.is_pending,
            mixing=mixing,
            grammar=self._grammar_of(request),
            spans=tuple(spans),
            before=before,
        )
        sequence.submitted_at = self._clock.monotonic()
        seed = request.sampling.seed
        with self._live.changed:
            if self._live.stopping:
                raise ReplicaLost("the replica is stopping")
            self._live.scheduler.add_sequence(sequence)
            self._live.seeds[request.request_id] = self._new_seed() if seed is None else seed
            if before is None:
                self._live.unstarted.add(request.request_id)
            self._live.changed.notify()

    def compile_grammar(self, request: GenerationRequest) -> None:
        """Compile a request's grammar, as in `Engine`; the newest grammars are kept."""
        self._grammar_of(request)

    def _grammar_of(self, request: GenerationRequest) -> TokenGrammar | None:
        sampling = request.sampling
        if not sampling.grammar:
            return None
        if self._grammars is None:
            raise RequestError("this engine has no tokenizer to follow a grammar with")
        if sampling.ignore_eos or sampling.min_tokens:
            field = "ignore_eos" if sampling.ignore_eos else "min_tokens"
            raise RequestError(f"{field}: not together with a grammar", param=field)
        return self._grammars.start(sampling.grammar, request.resumed_token_ids)

    def cancel(self, request_id: RequestId) -> bool:
        """End a request, as in `Engine`."""
        with self._live.changed:
            if request_id not in self._live.seeds:
                return False
            self._live.cancelled.append(request_id)
            self._live.changed.notify()
        return True

    def withdraw(self, request_id: RequestId) -> bool:
        """Take a request back that does not run, as in `Engine`.

        Without ``on_returned`` only one that has not begun.
        """
        with self._live.changed:
            if request_id in self._live.cancelled:
                return False
            if not self._live.scheduler.withdraw(request_id):
                if self._may_return and request_id in self._live.seeds:
                    self._live.recalled.append(request_id)
                    self._live.changed.notify()
                return False
            self._live.forget(request_id)
        return True

    def reroute(
        self,
        request_id: RequestId,
        namespace: str,
        adapters: tuple[tuple[Slot, float], ...],
        *,
        after: int,
    ) -> int | None:
        """Continue a request with other adapters, as in `Engine`."""
        self._runner.check_adapters(adapters)
        with self._live.changed:
            return self._live.scheduler.reroute(request_id, namespace, adapters, after)

    def release_before(self, request_id: RequestId, start: int) -> bool:
        """Release the adapters of earlier spans, as in `Engine`.

        Always returns False without ``on_returned``.
        """
        with self._live.changed:
            return self._may_return and self._live.scheduler.release_before(request_id, start)

    def stop(self, *, drain: bool, timeout_s: float | None = None) -> bool:
        """Refuse new requests and end, as in `Engine`."""
        live = self._live
        with live.changed:
            live.stopping = True
            live.aborting = live.aborting or not drain or self._thread is None
            live.changed.notify()
        if self._thread is None:
            self._loop.end_unstarted()
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def give_up(self, error: Exception) -> None:
        """End as after a step that lost the device: what another thread has met, steps will."""
        with self._live.changed:
            self._live.lost = error
            self._live.changed.notify()

    def stats(self) -> EngineStats:
        """Return the numbers of this moment, as in `Engine`."""
        scheduler, pool = self._live.scheduler, self._live.pool
        with self._live.changed:
            return EngineStats(
                running=scheduler.running,
                waiting=scheduler.waiting,
                kv_blocks_total=pool.num_blocks,
                kv_blocks_free=pool.num_free,
                preemptions=scheduler.preemptions,
                prefix_age_s=pool.prefix_age_s,
                counters=dataclasses.replace(self._loop.counters),
            )

    def backlog(self) -> Mapping[TenantId, int]:
        """Return the tokens of prompts still to be computed, as in `Engine`."""
        with self._live.changed:
            return self._live.scheduler.backlog()

    def stalled_for(self) -> float:
        """Return the seconds since the last sign of life, as in `Engine`."""
        if self._thread is None or not self._thread.is_alive():
            return float("inf")
        return self._loop.stalled_for()

    def check_integrity(self) -> None:
        """Check scheduler, pool and the engine's own books, as in `Engine`."""
        self._live.check_integrity()
