"""Implements the front's end of the links: one per replica, shared by all requests in flight.

Ownership: the sink that is given to ``ReplicaLink.submit`` receives the request's chunks. They end
in exactly one of two ways: a chunk with a finish reason, or ``None``, which says that the replica
was lost and nothing more will come. A replica that has said nothing for ``LINK_SILENCE_S`` is lost,
too: its process may hang with all its connections open. It ends what it has of this link's requests
once it goes on.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import grpc
import structlog

from cluster.domain.adapter import ResidentAdapter
from cluster.domain.ids import ReplicaId, RequestId
from cluster.domain.replica import LINK_SILENCE_S, ReplicaSnapshot
from cluster.domain.request import GenerationChunk
from cluster.errors import ReplicaLost
from deployments.link.link_auth import HEADER, link_token
from deployments.link.link_messages import (
    Cancel,
    HostItem,
    Reroute,
    SnapshotItem,
    StepItem,
    Submit,
    ToReplica,
    decode_to_front,
    encode,
)
from deployments.link.link_server import MAX_MESSAGE_BYTES, METHOD, SERVICE

log = structlog.get_logger(__name__)

LOOK_S = 0.5
"""Between two looks at whether anything has come."""


class ChunkSink(Protocol):
    """Receives the chunks of one request, on the event loop; an ``asyncio.Queue`` is one."""

    def put_nowait(self, item: GenerationChunk | None, /) -> None:
        """Take a chunk, or None when the replica was lost."""
        ...

    def empty(self) -> bool:
        """Return whether everything has been read."""
        ...


class ReplicaLink:
    """Holds one open link.

    Args:
        replica_id: the replica at the other end.
        address: its ``host:port``.
        signing_key: proves that this process belongs to the cluster.
        on_snapshot: called with every snapshot the replica sends.
        on_host: called with (replica_id, adapters in its host memory) when they change.
        on_load: called with (replica_id, running, queued) after every step.
        on_lost: called once when the link ends for any reason but ``close``.
    """

    def __init__(
        self,
        replica_id: ReplicaId,
        address: str,
        signing_key: bytes,
        *,
        on_snapshot: Callable[[ReplicaSnapshot], None],
        on_host: Callable[[ReplicaId, tuple[ResidentAdapter, ...]], None],
        on_load: Callable[[ReplicaId, int, int], None],
        on_lost: Callable[[ReplicaId], None],
    ) -> None:
        self.replica_id = replica_id
        self.address = address
        self._on_snapshot = on_snapshot
        self._on_host = on_host
        self._on_load = on_load
        self._on_lost = on_lost
        self._signing_key = signing_key
        self._sinks: dict[RequestId, ChunkSink] = {}
        self._outbox: asyncio.Queue[ToReplica] = asyncio.Queue()
        self._closed = False
        self._channel: grpc.aio.Channel | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._heard = False  # since the last look

    @property
    def open(self) -> bool:
        """Report whether requests may be submitted."""
        return not self._closed

    @property
    def in_flight(self) -> int:
        """Return the number of requests submitted here whose last chunk has not arrived."""
        return len(self._sinks)

    def start(self) -> None:
        """Open the channel; failures arrive through ``on_lost``."""
        self._channel = grpc.aio.insecure_channel(
            self.address,
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.enable_retries", 0),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        call = self._channel.stream_stream(f"/{SERVICE}/{METHOD}")(
            metadata=((HEADER, link_token(self._signing_key)),)
        )
        work = (self._read(call), self._write(call), self._watch())
        self._tasks = tuple(asyncio.create_task(coroutine) for coroutine in work)

    def submit(self, message: Submit, sink: ChunkSink) -> None:
        """Send a request, whose chunks ``sink`` receives.

        Raises:
            ReplicaLost: the link is closed.
        """
        if self._closed:
            raise ReplicaLost(f"replica {self.replica_id} is gone")
        self._sinks[message.request_id] = sink
        self._outbox.put_nowait(message)

    def reroute(self, message: Reroute) -> None:
        """Send a re-route of a request that was submitted here; does nothing if it has ended."""
        if message.request_id in self._sinks and not self._closed:
            self._outbox.put_nowait(message)

    def cancel(self, request_id: RequestId) -> None:
        """Tell the replica to stop; the sink receives nothing more."""
        if self._sinks.pop(request_id, None) is not None and not self._closed:
            self._outbox.put_nowait(Cancel(request_id))

    async def close(self) -> None:
        """End the link; requests still in flight see the replica as lost."""
        self._end()
        if self._channel is not None:
            await self._channel.close()

    def _end(self) -> None:
        self._closed = True
        sinks, self._sinks = self._sinks, {}
        for sink in sinks.values():
            sink.put_nowait(None)
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    async def _lose(self, reason: str) -> None:
        """End a link that was not closed here."""
        if self._closed:
            return
        log.warning("link.lost", replica=self.replica_id, reason=reason)
        self._end()
        self._on_lost(self.replica_id)
        if self._channel is not None:
            await self._channel.close()

    async def _watch(self) -> None:
        """Wait until the replica has been silent for too long.

        The time is counted in looks: while this process stands still itself, it does not pass, and
        what the replica said meanwhile is heard.
        """
        silent_s = 0.0
        while silent_s < LINK_SILENCE_S:
            await asyncio.sleep(LOOK_S)
            silent_s = 0.0 if self._heard else silent_s + LOOK_S
            self._heard = False
        await self._lose(f"silent for {silent_s:g} s")

    async def _write(self, call: Any) -> None:
        try:
            while True:
                await call.write(encode(await self._outbox.get()))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            log.info("link.write_ended", replica=self.replica_id, reason=str(error))

    async def _read(self, call: Any) -> None:
        reason = "closed by the replica"
        try:
            async for data in call:
                self._receive(data)
        except grpc.aio.AioRpcError as error:
            reason = f"{error.code().name}: {error.details()}"
        except Exception as error:  # its requests would wait for no one
            log.error("link.read_failed", replica=self.replica_id, exc_info=error)
            reason = repr(error)
        await self._lose(reason)

    def _receive(self, data: bytes) -> None:
        self._heard = True
        item = decode_to_front(data)
        match item:
            case SnapshotItem():
                self._on_snapshot(item.snapshot)
            case HostItem():
                self._on_host(self.replica_id, item.adapters)
            case StepItem():
                self._on_load(self.replica_id, item.running, item.queued)
                for chunk in item.chunks:
                    if chunk.finish_reason is None:
                        sink = self._sinks.get(chunk.request_id)
                    else:
                        sink = self._sinks.pop(chunk.request_id, None)
                    if sink is not None:
                        sink.put_nowait(chunk)
