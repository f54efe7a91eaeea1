"""A real gRPC link on the loopback interface, with a scripted replica behind it."""

import asyncio
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

import msgspec
import pytest

from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, ReplicaId, RequestId, TenantId
from cluster.domain.replica import LINK_SILENCE_S, ReplicaSnapshot
from cluster.domain.request import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    SamplingParams,
    Usage,
)
from cluster.errors import ReplicaLost
from deployments.link.link_client import ReplicaLink
from deployments.link.link_messages import Reroute, SpanStart, Submit
from deployments.link.link_server import LinkServer

KEY = b"0123456789abcdef"
REPLICA = ReplicaId("r1")
WAIT_S = 5.0


COPY = ResidentAdapter(AdapterDigest("a" * 64), "sql", AdapterState.ON_HOST, 10, 8, 0)


class ScriptedReplica:
    """Remembers what it was sent; the test decides what it answers."""

    def __init__(self) -> None:
        self.submitted: list[Submit] = []
        self.rerouted: list[Reroute] = []
        self.cancelled: list[RequestId] = []
        self.orphans: list[frozenset[RequestId]] = []
        self.told = asyncio.Event()

    def submit(self, message: Submit) -> None:
        self.submitted.append(message)
        self.told.set()

    def reroute(self, message: Reroute) -> None:
        self.rerouted.append(message)
        self.told.set()

    def cancel(self, request_id: RequestId) -> None:
        self.cancelled.append(request_id)
        self.told.set()

    def disconnected(self, request_ids: frozenset[RequestId]) -> None:
        self.orphans.append(request_ids)
        self.told.set()

    def snapshot(self) -> ReplicaSnapshot:
        return ReplicaSnapshot(
            replica_id=REPLICA,
            address="",
            queued=0,
            running=0,
            kv_blocks_total=8,
            kv_blocks_free=8,
            slots_total=4,
            adapter_bytes_limit=100,
            adapter_bytes_used=0,
            resident=(),
            draining=False,
        )

    def on_host(self) -> tuple[ResidentAdapter, ...]:
        return (COPY,)

    async def next(self) -> None:
        await asyncio.wait_for(self.told.wait(), WAIT_S)
        self.told.clear()


class Front:
    """One front's end with what it heard."""

    def __init__(self, port: int, key: bytes = KEY) -> None:
        self.snapshots: asyncio.Queue[ReplicaSnapshot] = asyncio.Queue()
        self.on_host: asyncio.Queue[tuple[ResidentAdapter, ...]] = asyncio.Queue()
        self.loads: list[tuple[int, int]] = []
        self.lost = asyncio.Event()
        self.link = ReplicaLink(
            REPLICA,
            f"127.0.0.1:{port}",
            key,
            on_snapshot=self.snapshots.put_nowait,
            on_host=lambda _, adapters: self.on_host.put_nowait(adapters),
            on_load=lambda _, running, queued: self.loads.append((running, queued)),
            on_lost=lambda _: self.lost.set(),
        )
        self.link.start()

    def submit(self, message: Submit) -> asyncio.Queue[GenerationChunk | None]:
        chunks: asyncio.Queue[GenerationChunk | None] = asyncio.Queue()
        self.link.submit(message, chunks)
        return chunks


def submission(name: str) -> Submit:
    request = GenerationRequest(
        RequestId(name), TenantId("acme"), (1, 2, 3), SamplingParams(max_tokens=4)
    )
    return Submit(request, b"signed")


def chunk(name: str, *tokens: int, last: bool = False) -> GenerationChunk:
    return GenerationChunk(
        RequestId(name),
        tokens,
        finish_reason=FinishReason.LENGTH if last else None,
        usage=Usage(3, len(tokens)) if last else None,
    )


@pytest.fixture
async def served() -> AsyncIterator[tuple[ScriptedReplica, LinkServer, int]]:
    replica = ScriptedReplica()
    server = LinkServer(replica, replica, KEY)
    port = await server.start("127.0.0.1")
    yield replica, server, port
    await server.stop(0)


Served = tuple[ScriptedReplica, LinkServer, int]


async def test_chunks_reach_the_front_that_asked(served: Served) -> None:
    replica, server, port = served
    one, two = Front(port), Front(port)
    a, b = one.submit(submission("a")), two.submit(submission("b"))
    while len(replica.submitted) < 2:
        await replica.next()
    assert {message.request_id for message in replica.submitted} == {"a", "b"}
    assert replica.submitted[0].signed_decision == b"signed"
    server.deliver([chunk("a", 7), chunk("b", 8, 9)], running=2, queued=1)
    server.deliver([chunk("a", 10, last=True), chunk("nobody", 1)], running=1, queued=0)
    first = await asyncio.wait_for(a.get(), WAIT_S)
    last = await asyncio.wait_for(a.get(), WAIT_S)
    assert first == chunk("a", 7)
    assert last == chunk("a", 10, last=True)
    assert one.link.in_flight == 0
    assert await asyncio.wait_for(b.get(), WAIT_S) == chunk("b", 8, 9)
    assert two.link.in_flight == 1
    assert one.loads == [(2, 1), (1, 0)]
    assert two.loads == [(2, 1)]
    await one.link.close()
    await two.link.close()


async def test_a_snapshot_comes_first_and_again_on_change(served: Served) -> None:
    replica, server, port = served
    front = Front(port)
    assert await asyncio.wait_for(front.snapshots.get(), WAIT_S) == replica.snapshot()
    server.publish(replica.snapshot())
    assert await asyncio.wait_for(front.snapshots.get(), WAIT_S) == replica.snapshot()
    await front.link.close()


async def test_cancel_crosses_and_ends_the_queue(served: Served) -> None:
    replica, _, port = served
    front = Front(port)
    queue = front.submit(submission("a"))
    front.link.cancel(RequestId("a"))
    front.link.cancel(RequestId("unknown"))
    while not replica.cancelled:
        await replica.next()
    assert replica.cancelled == ["a"]
    assert queue.empty()
    await front.link.close()


async def test_a_re_route_crosses_for_a_request_that_runs(served: Served) -> None:
    replica, server, port = served
    front = Front(port)
    spans = (SpanStart(3, b"earlier"),)
    message = msgspec.structs.replace(submission("a"), spans=spans)
    queue = front.submit(message)
    front.link.reroute(Reroute(RequestId("unknown"), b"other", 1))
    front.link.reroute(Reroute(RequestId("a"), b"newer", 9))
    while not replica.rerouted:
        await replica.next()
    assert replica.submitted == [message]
    assert replica.rerouted == [Reroute(RequestId("a"), b"newer", 9)]
    refusal = GenerationChunk(RequestId("a"), reroute_error="no room")
    begun = GenerationChunk(RequestId("a"), (7,), span_start=9)
    server.deliver([refusal], running=1, queued=0)
    server.deliver([begun], running=1, queued=0)
    assert await asyncio.wait_for(queue.get(), WAIT_S) == refusal
    assert await asyncio.wait_for(queue.get(), WAIT_S) == begun
    await front.link.close()


async def test_a_lost_front_orphans_exactly_its_unfinished_requests(served: Served) -> None:
    replica, server, port = served
    front = Front(port)
    for name in ("a", "b"):
        front.submit(submission(name))
    while len(replica.submitted) < 2:
        await replica.next()
    server.deliver([chunk("a", 1, last=True)], 1, 0)
    await front.link.close()
    while not replica.orphans:
        await replica.next()
    assert replica.orphans == [frozenset({"b"})]


async def test_a_lost_replica_ends_every_queue_once(served: Served) -> None:
    replica, server, port = served
    front = Front(port)
    queue = front.submit(submission("a"))
    await replica.next()
    await server.stop(0)
    assert await asyncio.wait_for(queue.get(), WAIT_S) is None
    await asyncio.wait_for(front.lost.wait(), WAIT_S)
    assert not front.link.open
    with pytest.raises(ReplicaLost):
        front.submit(submission("b"))


async def test_a_lost_link_leaves_no_task_behind(served: Served) -> None:
    replica, server, port = served
    before = asyncio.all_tasks()
    front = Front(port)
    front.submit(submission("a"))
    await replica.next()
    await server.stop(0)
    await asyncio.wait_for(front.lost.wait(), WAIT_S)
    if left := asyncio.all_tasks() - before:
        _, pending = await asyncio.wait(left, timeout=WAIT_S)
        assert not pending


async def test_a_stranger_is_refused(served: Served) -> None:
    replica, _, port = served
    front = Front(port, key=b"another cluster's key")
    queue = front.submit(submission("a"))
    await asyncio.wait_for(front.lost.wait(), WAIT_S)
    assert await queue.get() is None
    assert replica.submitted == []


async def test_what_is_in_host_memory_is_told_at_first_and_on_change(served: Served) -> None:
    _, server, port = served
    front = Front(port)
    assert await asyncio.wait_for(front.on_host.get(), WAIT_S) == (COPY,)
    server.publish_host(())
    assert await asyncio.wait_for(front.on_host.get(), WAIT_S) == ()
    await front.link.close()


async def test_a_front_that_fails_to_take_something_in_gives_the_link_up(served: Served) -> None:
    """Otherwise its requests would wait for chunks that are never read."""
    replica, server, port = served

    def fail(*_: object) -> None:
        raise RuntimeError("a fault in the view")

    front = Front(port)
    await asyncio.wait_for(front.snapshots.get(), WAIT_S)
    front.link._on_load = fail
    chunks = front.submit(submission("a"))
    await replica.next()
    server.deliver([chunk("a", 7)], running=1, queued=0)
    assert await asyncio.wait_for(chunks.get(), WAIT_S) is None
    await asyncio.wait_for(front.lost.wait(), WAIT_S)
    assert not front.link.open


@pytest.fixture
async def far() -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.stoppable_replica", stdout=PIPE
    )
    yield process
    process.kill()
    await process.wait()


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()


@pytest.mark.slow
async def test_a_replica_that_stands_still_is_given_up_and_may_come_back(far: Process) -> None:
    port = int(await line_of(far))
    front = Front(port)
    chunks = front.submit(submission("a"))
    assert await line_of(far) == "began a"
    first = await asyncio.wait_for(chunks.get(), WAIT_S)
    assert first is not None
    assert len(first.token_ids) == 1
    far.send_signal(signal.SIGSTOP)
    assert await asyncio.wait_for(chunks.get(), 4 * LINK_SILENCE_S) is None
    assert front.lost.is_set()
    assert not front.link.open
    far.send_signal(signal.SIGCONT)
    assert await line_of(far) == "given up a"
    again = Front(port)
    assert (await asyncio.wait_for(again.snapshots.get(), WAIT_S)).replica_id == REPLICA
    assert await asyncio.wait_for(again.submit(submission("b")).get(), WAIT_S)
    assert chunks.empty(), "what it said late belongs to nobody"
    await again.link.close()


@pytest.mark.slow
async def test_a_front_that_stood_still_itself_gives_nothing_up(far: Process) -> None:
    front = Front(int(await line_of(far)))
    await asyncio.wait_for(front.snapshots.get(), WAIT_S)
    time.sleep(LINK_SILENCE_S + 1)  # noqa: ASYNC251 # this process is what stands still
    await asyncio.sleep(1)
    assert front.link.open
    await front.link.close()
