"""Implements the replica's end of the links: one bidirectional gRPC stream per front.

Ownership: a request belongs to the connection that submitted it until its last chunk has been
queued for that connection; when the connection ends, ``LinkHandler.disconnected`` is called
exactly once with those of its requests that still run, and the handler cancels them.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Protocol

import grpc
import structlog

from cluster.domain.adapter import ResidentAdapter
from cluster.domain.ids import RequestId
from cluster.domain.replica import ReplicaSnapshot
from cluster.domain.request import GenerationChunk
from deployments.link.link_auth import HEADER, token_matches
from deployments.link.link_messages import (
    Cancel,
    HostItem,
    Reroute,
    SnapshotItem,
    StepItem,
    Submit,
    ToFront,
    decode_to_replica,
    encode,
)

SERVICE = "braid.Link"
METHOD = "Connect"
MAX_MESSAGE_BYTES = 64 * 2**20

log = structlog.get_logger(__name__)


class LinkHandler(Protocol):
    """Handles messages on a replica. All calls come on the event loop's thread."""

    def submit(self, message: Submit) -> None: ...

    def reroute(self, message: Reroute) -> None: ...

    def cancel(self, request_id: RequestId) -> None: ...

    def disconnected(self, request_ids: frozenset[RequestId]) -> None: ...


class LinkGreeting(Protocol):
    """Composes what a front hears first. All calls come on the event loop's thread."""

    def snapshot(self) -> ReplicaSnapshot: ...

    def on_host(self) -> tuple[ResidentAdapter, ...]: ...


class _Connection:
    """Holds what is to be written to one front, and which requests are its own."""

    def __init__(self) -> None:
        self.outbox: asyncio.Queue[ToFront] = asyncio.Queue()
        self.requests: set[RequestId] = set()


class LinkServer:
    """Accepts links and fans engine output out to them.

    Args:
        handler: takes the fronts' messages.
        greeting: composes what a new link begins with.
        signing_key: the cluster's key; a link without its token is refused.
    """

    def __init__(self, handler: LinkHandler, greeting: LinkGreeting, signing_key: bytes) -> None:
        self._handler = handler
        self._greeting = greeting
        self._signing_key = signing_key
        self._connections: set[_Connection] = set()
        self._owner: dict[RequestId, _Connection] = {}
        self._server: grpc.aio.Server | None = None

    async def start(self, host: str) -> int:
        """Listen on a free port of ``host``; returns the port."""
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            ]
        )
        method = grpc.stream_stream_rpc_method_handler(self._connect)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {METHOD: method}),)
        )
        port: int = server.add_insecure_port(f"{host}:0")
        await server.start()
        self._server = server
        return port

    async def stop(self, grace_s: float) -> None:
        """Refuse new links, give the open ones ``grace_s`` seconds, then close."""
        if self._server is not None:
            await self._server.stop(grace_s)
            self._server = None

    def deliver(self, chunks: Iterable[GenerationChunk], running: int, queued: int) -> None:
        """Queue one engine step's chunks, one item per front that has any."""
        by_connection: dict[_Connection, list[GenerationChunk]] = {}
        for chunk in chunks:
            connection = self._owner.get(chunk.request_id)
            if connection is None:
                continue
            by_connection.setdefault(connection, []).append(chunk)
            if chunk.finish_reason is not None:
                del self._owner[chunk.request_id]
                connection.requests.discard(chunk.request_id)
        for connection, own in by_connection.items():
            connection.outbox.put_nowait(StepItem(tuple(own), running, queued))

    def publish(self, snapshot: ReplicaSnapshot) -> None:
        """Queue a snapshot for every front."""
        for connection in self._connections:
            connection.outbox.put_nowait(SnapshotItem(snapshot))

    def publish_host(self, adapters: tuple[ResidentAdapter, ...]) -> None:
        """Queue what is in host memory for every front."""
        for connection in self._connections:
            connection.outbox.put_nowait(HostItem(adapters))

    async def _connect(self, requests: AsyncIterator[bytes], context: Any) -> None:
        presented = dict(context.invocation_metadata() or ()).get(HEADER, "")
        if not token_matches(self._signing_key, str(presented)):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "link token missing or wrong")
        connection = _Connection()
        self._connections.add(connection)
        connection.outbox.put_nowait(SnapshotItem(self._greeting.snapshot()))
        connection.outbox.put_nowait(HostItem(self._greeting.on_host()))
        writer = asyncio.create_task(self._write(connection, context))
        try:
            async for data in requests:
                self._receive(connection, data)
        finally:
            writer.cancel()
            self._connections.discard(connection)
            orphans = frozenset(connection.requests)
            for request_id in orphans:
                self._owner.pop(request_id, None)
            self._handler.disconnected(orphans)

    def _receive(self, connection: _Connection, data: bytes) -> None:
        message = decode_to_replica(data)
        match message:
            case Submit():
                connection.requests.add(message.request_id)
                self._owner[message.request_id] = connection
                self._handler.submit(message)
            case Reroute():
                self._handler.reroute(message)
            case Cancel():
                self._handler.cancel(message.request_id)

    @staticmethod
    async def _write(connection: _Connection, context: Any) -> None:
        try:
            while True:
                item = await connection.outbox.get()
                await context.write(encode(item))
        except grpc.aio.AioRpcError as error:
            log.info("link.write_ended", reason=str(error))
