"""A replica that answers by a script, at the far end of a real link."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.adapters.registry.records import AddOutcome, ReplicaAnswer
from cluster.domain.adapter import ResidentAdapter
from cluster.domain.ids import ReplicaId, RequestId, TenantId
from cluster.domain.replica import ReplicaSnapshot
from cluster.domain.request import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    TokenLogprobs,
    Usage,
)
from deployments.link.link_messages import Reroute, Submit
from deployments.link.link_server import LinkServer

MAX_MODEL_LEN = 200
"""Limits what a scripted replica says that it takes, in tokens."""
GRACE_S = 5.0
LOGPROB = -0.5
"""Of every token; the alternatives behind it are ever less likely."""


@dataclass(frozen=True, slots=True)
class Speech:
    """Describes the answer to one sequence; a token is a byte of ``text``.

    The counts are of the completion's tokens, those resumed included.
    """

    text: str | bytes = "Hello there."
    ends: FinishReason = FinishReason.STOP  # how it ends behind the text
    hold_after: int | None = None  # tokens until it waits for ``Script.go``
    die_after: int | None = None  # tokens until the replica's process ends
    leave_after: int | None = None  # tokens until it says that the replica is stopping
    fail_after: int | None = None  # tokens until ``error``
    error: tuple[str, str] = ("engine_error", "a step failed")  # code, message
    tokens_per_chunk: int = 1
    cached_tokens: int = 0
    queued_s: float | None = None
    gate_weights: tuple[tuple[float, ...], ...] = ()  # with each token


class Script:
    """Holds the speeches of all replicas in the order of the submissions; the last is repeated."""

    def __init__(self) -> None:
        self.speeches: list[Speech] = [Speech()]
        self.taken = 0
        self.submitted: list[GenerationRequest] = []
        self.times_left: list[float | None] = []
        self.decisions: list[bytes] = []  # signed, of each submission
        self.cancelled: list[RequestId] = []
        self.rerouted: list[Reroute] = []
        self.go = asyncio.Event()

    def take(self, message: Submit) -> Speech:
        """Note a submission and return what is answered to it."""
        self.submitted.append(message.request)
        self.times_left.append(message.time_left_s)
        self.decisions.append(message.signed_decision)
        speech = self.speeches[min(self.taken, len(self.speeches) - 1)]
        self.taken += 1
        return speech


class ScriptedReplica:
    """Implements ``LinkHandler``.

    Args:
        name: its id.
        script: what it and its siblings answer.
        end_of_text: the token that ends a text.
        first_byte: the token of the byte 0; the others follow in order.
    """

    def __init__(self, name: str, script: Script, end_of_text: int, first_byte: int) -> None:
        self.id = ReplicaId(name)
        self.address = ""
        self.alive = False
        self.resident: tuple[ResidentAdapter, ...] = ()
        self.host: tuple[ResidentAdapter, ...] = ()
        self.queued = 0
        self.backlog: tuple[tuple[TenantId, int], ...] = ()
        self.counters: tuple[tuple[str, float], ...] = (("steps", 7.0), ("adapter_hits_host", 2.0))
        self.fault: str | None = None  # of its books
        self.adapter_answer = ReplicaAnswer(self.id, AddOutcome.LOADED)
        self.router_answer = ReplicaAnswer(self.id, AddOutcome.LOADED)
        self._script = script
        self._sequences = itertools.count(1)
        self._end_of_text = end_of_text
        self._first_byte = first_byte
        self._links = LinkServer(self, self, b"0123456789abcdef")
        self._tasks: dict[RequestId, asyncio.Task[None]] = {}
        self._rerouted: dict[RequestId, Reroute] = {}
        self._ending: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen for fronts."""
        self.address = f"127.0.0.1:{await self._links.start('127.0.0.1')}"
        self.alive = True

    async def die(self) -> None:
        """End every link at once, as a killed process does."""
        await self._end()

    async def stop(self) -> None:
        """End when the fronts have closed their links."""
        self.alive = False
        await self._links.stop(GRACE_S)

    def _end(self) -> asyncio.Task[None]:
        self.alive = False
        if self._ending is None:
            for task in self._tasks.values():
                task.cancel()
            self._ending = asyncio.create_task(self._links.stop(0))
        return self._ending

    def publish(self) -> None:
        """Tell every front what the replica is now."""
        self._links.publish(self.snapshot())
        self._links.publish_host(self.host)

    def submit(self, message: Submit) -> None:
        speech = self._script.take(message)
        task = asyncio.create_task(self._play(message, speech))
        self._tasks[message.request_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(message.request_id, None))

    def reroute(self, message: Reroute) -> None:
        self._script.rerouted.append(message)
        self._rerouted[message.request_id] = message

    def cancel(self, request_id: RequestId) -> None:
        self._script.cancelled.append(request_id)
        self._stop(request_id)

    def disconnected(self, request_ids: frozenset[RequestId]) -> None:
        for request_id in request_ids:
            self._stop(request_id)

    def on_host(self) -> tuple[ResidentAdapter, ...]:
        return self.host

    def snapshot(self) -> ReplicaSnapshot:
        return ReplicaSnapshot(
            self.id,
            self.address,
            queued=self.queued,
            running=0,
            kv_blocks_total=64,
            kv_blocks_free=64,
            slots_total=4,
            adapter_bytes_limit=4096,
            adapter_bytes_used=sum(item.nbytes for item in self.resident),
            resident=self.resident,
            draining=False,
            sequence=next(self._sequences),
            counters=self.counters,
            max_model_len=MAX_MODEL_LEN,
            backlog=self.backlog,
        )

    def _stop(self, request_id: RequestId) -> None:
        task = self._tasks.get(request_id)
        if task is not None:
            task.cancel()

    async def _play(self, message: Submit, speech: Speech) -> None:
        tokens = self._tokens(message, speech)
        self._deliver(message, prompt_logprobs=self._scores(message))
        at = len(message.request.resumed_token_ids)
        while True:
            if at == speech.hold_after:
                await self._script.go.wait()
            if at == speech.die_after:
                self._end()
                return
            if at == speech.leave_after:
                self._fail(message, "replica_lost", "the replica is stopping")
                return
            if at == speech.fail_after:
                self._fail(message, *speech.error)
                return
            start = self._span_start(message, at)
            part = tokens[at : at + speech.tokens_per_chunk]
            at += len(part)
            reason = self._reason(message, speech, part, at, len(tokens))
            prompt_tokens = len(message.request.prompt_token_ids)
            usage = Usage(prompt_tokens, at, speech.cached_tokens, speech.queued_s)
            self._deliver(
                message,
                token_ids=part,
                logprobs=self._logprobs(message, part),
                finish_reason=reason,
                usage=None if reason is None else usage,
                gate_weights=speech.gate_weights if message.request.sampling.explain else (),
                span_start=start,
            )
            if reason is not None:
                return
            await asyncio.sleep(0)

    def _span_start(self, message: Submit, at: int) -> int | None:
        wanted = self._rerouted.get(message.request_id)
        if wanted is None or at < wanted.after:
            return None
        del self._rerouted[message.request_id]
        return at

    def _tokens(self, message: Submit, speech: Speech) -> tuple[int, ...]:
        text = speech.text.encode() if isinstance(speech.text, str) else speech.text
        tokens = [self._first_byte + byte for byte in text]
        if speech.ends is FinishReason.STOP:
            tokens.append(self._end_of_text)
        for at, token in enumerate(tokens):
            if token in message.request.sampling.stop_token_ids:
                del tokens[at + 1 :]
                break
        return tuple(tokens[: message.request.sampling.max_tokens])

    def _reason(
        self, message: Submit, speech: Speech, part: Sequence[int], at: int, total: int
    ) -> FinishReason | None:
        if at < total:
            return None
        if part and part[-1] in (self._end_of_text, *message.request.sampling.stop_token_ids):
            return FinishReason.STOP
        if at == message.request.sampling.max_tokens:
            return FinishReason.LENGTH
        return speech.ends

    def _scores(self, message: Submit) -> tuple[TokenLogprobs, ...]:
        wanted = message.request.sampling.prompt_logprobs
        if wanted is None:
            return ()
        return tuple(_scored(token, wanted) for token in message.request.prompt_token_ids[1:])

    def _logprobs(self, message: Submit, part: Sequence[int]) -> tuple[TokenLogprobs, ...]:
        wanted = message.request.sampling.logprobs
        return () if wanted is None else tuple(_scored(token, wanted) for token in part)

    def _fail(self, message: Submit, code: str, text: str) -> None:
        self._deliver(
            message, finish_reason=FinishReason.ERROR, error_code=code, error_message=text
        )

    def _deliver(self, message: Submit, **fields: object) -> None:
        if any(fields.values()):
            chunk = GenerationChunk(message.request_id, **fields)  # type: ignore[arg-type]
            self._links.deliver((chunk,), 0, self.queued)


def _scored(token: int, alternatives: int) -> TokenLogprobs:
    """Score a token, with those that follow it in the vocabulary."""
    top = tuple((token + step, LOGPROB * (step + 1)) for step in range(alternatives))
    return TokenLogprobs(LOGPROB, top)
