"""A replica without a model: a real link server, and one token a step for every stream."""

import asyncio
import time
from multiprocessing.connection import Connection

from cluster.domain.ids import ReplicaId, RequestId
from cluster.domain.replica import HEARTBEAT_S, ReplicaSnapshot
from cluster.domain.request import FinishReason, GenerationChunk, TokenLogprobs, Usage
from deployments.link.link_messages import Reroute, Submit
from deployments.link.link_server import LinkServer

ID = ReplicaId("scripted")
LOGPROB = -0.7512345  # of every token


def snapshot_of(address: str) -> ReplicaSnapshot:
    """Return what the replica says of itself: it has room for everything."""
    return ReplicaSnapshot(
        ID,
        address,
        queued=0,
        running=0,
        kv_blocks_total=1 << 20,
        kv_blocks_free=1 << 20,
        slots_total=16,
        adapter_bytes_limit=1 << 30,
        adapter_bytes_used=0,
        resident=(),
        draining=False,
        max_model_len=1 << 20,
    )


class _Stream:
    def __init__(self, message: Submit) -> None:
        self.message = message
        self.sent = 0


class ScriptedReplica:
    """Answers a submission's first token at once, and another one at every step from then on.

    Args:
        signing_key: of the cluster.
        words: token ids that take turns.
        interval_s: seconds between two steps.
    """

    def __init__(self, signing_key: bytes, words: tuple[int, ...], interval_s: float) -> None:
        self.links = LinkServer(self, self, signing_key)
        self.interval_s = interval_s
        self._words = words
        self._streams: dict[RequestId, _Stream] = {}
        self._sent: dict[str, list[float]] = {}  # monotonic seconds of each token, by HTTP request
        self._turn = 0

    def submit(self, message: Submit) -> None:
        stream = self._streams[message.request_id] = _Stream(message)
        self._sent[message.request.http_request] = []
        self._deliver([stream])

    def reroute(self, message: Reroute) -> None:
        raise NotImplementedError("no router is configured")

    def cancel(self, request_id: RequestId) -> None:
        self._streams.pop(request_id, None)

    def disconnected(self, request_ids: frozenset[RequestId]) -> None:
        for request_id in request_ids:
            self.cancel(request_id)

    def snapshot(self) -> ReplicaSnapshot:
        return snapshot_of("")

    def on_host(self) -> tuple[()]:
        return ()

    def take_sent(self) -> dict[str, list[float]]:
        """Return when each token since the last call was sent, and forget it."""
        taken = self._sent
        self._sent = {stream.message.request.http_request: [] for stream in self._streams.values()}
        return taken

    async def run(self) -> None:
        """Step until cancelled, however long the links take, and send heartbeats."""
        due = published = time.monotonic()
        while True:
            due += self.interval_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._deliver(list(self._streams.values()))
            if due - published >= HEARTBEAT_S:
                published = due
                self.links.publish(self.snapshot())

    def _deliver(self, streams: list[_Stream]) -> None:
        chunks = [self._chunk(stream) for stream in streams]
        now = time.monotonic()
        for stream in streams:
            self._sent[stream.message.request.http_request].append(now)
        self.links.deliver(chunks, len(self._streams), 0)

    def _chunk(self, stream: _Stream) -> GenerationChunk:
        message = stream.message
        self._turn = (self._turn + 1) % len(self._words)
        stream.sent += 1
        logprobs: tuple[TokenLogprobs, ...] = ()
        if message.request.sampling.logprobs is not None:
            others = self._words[: message.request.sampling.logprobs]
            top = tuple((word, LOGPROB - rank) for rank, word in enumerate(others))
            logprobs = (TokenLogprobs(LOGPROB, top),)
        ends = stream.sent >= message.request.sampling.max_tokens
        if ends:
            del self._streams[message.request_id]
        return GenerationChunk(
            message.request_id,
            (self._words[self._turn],),
            logprobs,
            FinishReason.LENGTH if ends else None,
            Usage(len(message.request.prompt_token_ids), stream.sent) if ends else None,
        )


def serve(
    commands: Connection, signing_key: bytes, words: tuple[int, ...], interval_s: float
) -> None:
    """Run the replica; tells its port, and after each "sent" when tokens were sent."""
    asyncio.run(_serve(commands, ScriptedReplica(signing_key, words, interval_s)))


async def _serve(commands: Connection, replica: ScriptedReplica) -> None:
    commands.send(await replica.links.start("127.0.0.1"))
    steps = asyncio.create_task(replica.run())
    try:
        while (command := await asyncio.to_thread(commands.recv)) != "stop":
            if isinstance(command, float):
                replica.interval_s = command
            commands.send(replica.take_sent())
    finally:
        steps.cancel()
        await replica.links.stop(0)
