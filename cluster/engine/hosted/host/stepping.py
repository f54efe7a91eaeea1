"""Steps vLLM's engine core, and does between steps what the replica sends."""

import queue
import time
from collections.abc import Callable
from typing import Any

from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore

from cluster.engine.hosted.host.core_requests import core_request, host_tokens
from cluster.engine.hosted.messages import (
    Abort,
    Answer,
    CountLive,
    FromHost,
    Generate,
    HostSampling,
    HostTokens,
    LoadAdapter,
    StepDone,
    ToHost,
    UnloadAdapter,
)

Inbox = queue.SimpleQueue[ToHost]


class CoreLoop:
    """Runs in one thread, which is the only one that touches the engine core.

    Args:
        core: vLLM's.
        inbox: what the replica sends.
        send: tells the replica.
    """

    def __init__(self, core: EngineCore, inbox: Inbox, send: Callable[[FromHost], None]) -> None:
        self._core = core
        self._inbox = inbox
        self._send = send
        self._live: dict[str, HostSampling] = {}
        self._planned: list[Any] = []  # plans whose output came since the last report
        self._told_free = self.kv_free
        self._watch_plans()

    def run(self) -> None:
        """Serve for ever.

        Raises:
            Exception: a step failed; the engine core cannot go on.
        """
        while True:
            if self._is_busy():
                self._take_messages(wait=False)
            else:
                if self.kv_free != self._told_free:  # after sequences were aborted
                    self._tell(0.0, [], [], 0)
                self._take_messages(wait=True)
            if self._is_busy():
                self._step()

    @property
    def kv_free(self) -> int:
        """KV blocks that can be handed out."""
        free: int = self._core.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        return free

    def _is_busy(self) -> bool:
        return self._core.scheduler.has_requests() or bool(self._core.batch_queue)

    def _tell(
        self,
        seconds: float,
        rows: list[tuple[int, int, int]],
        tokens: list[HostTokens],
        preempted: int,
    ) -> None:
        self._told_free = self.kv_free
        self._send(StepDone(seconds, rows, tokens, self._told_free, preempted))

    def _watch_plans(self) -> None:
        """Note each plan of which vLLM's scheduler takes the output: a step does not return it."""
        scheduler = self._core.scheduler
        take = scheduler.update_from_output

        def update_from_output(plan: Any, output: Any) -> Any:
            self._planned.append(plan)
            return take(plan, output)

        scheduler.update_from_output = update_from_output

    def _take_messages(self, *, wait: bool) -> None:
        try:
            while True:
                self._do(self._inbox.get(block=wait))
                wait = False
        except queue.Empty:
            return

    def _do(self, message: ToHost) -> None:
        match message:
            case Generate():
                self._generate(message)
            case Abort():
                names = [str(one) for one in message.ids]
                for name in names:
                    self._live.pop(name, None)
                self._core.abort_requests(names)
            case LoadAdapter():
                self._call(message.call, "load_adapter", message.name, message.folder)
            case UnloadAdapter():
                self._call(message.call, "unload_adapter", message.name)
            case CountLive():
                self._answer(message.call)
            case _:
                raise TypeError(f"a host that runs is sent a {type(message).__name__}")

    def _generate(self, message: Generate) -> None:
        """Hand a sequence to the scheduler; what it cannot take ends at once."""
        try:
            request, wave = self._core.preprocess_add_request(self._request(message))
            if message.sampling.grammar and message.resumed:
                self._follow(request, message.token_ids[-message.resumed :])
            self._core.add_request(request, wave)
        except Exception as error:
            ended = HostTokens(message.id, [], finish="error", problem=str(error))
            self._tell(0.0, [], [ended], 0)
            return
        self._live[str(message.id)] = message.sampling

    def _request(self, message: Generate) -> EngineCoreRequest:
        by_position = self._core.vllm_config.use_v2_model_runner
        return core_request(message, draws_by_position=by_position)

    def _follow(self, request: Any, tokens: list[int]) -> None:
        """Let a request's grammar follow the tokens that were generated elsewhere."""
        asked = request.structured_output_request
        grammar = asked._grammar.result()
        if not grammar.accept_tokens(request.request_id, tokens):
            raise ValueError("the grammar does not accept the tokens that were generated")
        asked.grammar = grammar

    def _call(self, call: int, method: str, *arguments: str) -> None:
        try:
            self._core.collective_rpc(method, args=arguments)
        except Exception as error:
            self._answer(call, problem=f"{type(error).__name__}: {error}")
        else:
            self._answer(call)

    def _answer(self, call: int, *, problem: str = "") -> None:
        self._send(Answer(call, problem, live=len(self._live), kv_free=self.kv_free))

    def _step(self) -> None:
        began = time.monotonic()
        outputs, computed = self._core.step_fn()
        self._core.post_step(model_executed=computed)
        seconds = time.monotonic() - began
        plans, self._planned = self._planned, []
        core_outputs = outputs[0].outputs if outputs and 0 in outputs else []
        tokens = [
            host_tokens(output, self._live[output.request_id])
            for output in core_outputs
            if output.request_id in self._live
        ]
        for one in tokens:
            if one.finish:
                del self._live[str(one.id)]
        rows = [row for plan in plans for row in _rows(plan)]
        preempted = sum(len(plan.preempted_req_ids or ()) for plan in plans)
        if rows or tokens or preempted:
            self._tell(seconds, rows, tokens, preempted)


def _rows(plan: Any) -> list[tuple[int, int, int]]:
    """Return (sequence, tokens known before, tokens computed) of each row of a plan."""
    before = {new.req_id: new.num_computed_tokens for new in plan.scheduled_new_reqs}
    cached = plan.scheduled_cached_reqs
    before |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
    return [(int(name), before[name], count) for name, count in plan.num_scheduled_tokens.items()]
