"""The tokens of a request's choices reach its reader: at once, all that have come, in order."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.domain.ids import ReplicaId, RequestId, TenantId
from cluster.domain.request import FinishReason, GenerationChunk, SamplingParams
from cluster.errors import EngineError, Overloaded, ReplicaLost
from cluster.placement.picking.cluster_view import ClusterView
from cluster.tenancy.waiting_places import WaitingPlace, WaitingPlaces
from cluster.waiting.patience import MAX_FAILOVERS
from deployments.front.sequences.choice import Choice
from deployments.front.sequences.relay import Relay
from deployments.front.sequences.sequence_spec import ChoiceServices, SequenceSpec
from deployments.front.sequences.token_times import TokenTimes
from deployments.front.telemetry.metrics import FrontMetrics
from deployments.front.text.text_stream import TextCodec
from deployments.link.link_client import ChunkSink
from deployments.link.link_messages import Submit
from tests.support.manual_clock import ManualClock
from tests.support.small_cluster import make_base


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    return TextCodec(make_base(tmp_path_factory.mktemp("tiny")))


class Link:
    """Keeps what was submitted; the test plays the replica."""

    def __init__(self, name: str) -> None:
        self.replica_id = ReplicaId(name)
        self.sinks: dict[str, ChunkSink] = {}
        self.submitted: list[Submit] = []
        self.cancelled: list[str] = []

    def submit(self, message: Submit, sink: ChunkSink) -> None:
        self.submitted.append(message)
        self.sinks[message.request_id] = sink

    def cancel(self, request_id: RequestId) -> None:
        self.cancelled.append(request_id)


class Rig:
    """Choices over links; sequences are called s0, s1 and so on, as they are submitted."""

    def __init__(self, codec: TextCodec, n: int = 1, stop: tuple[str, ...] = ()) -> None:
        self.codec = codec
        self.links = [Link(f"r{number}") for number in range(MAX_FAILOVERS + 2)]
        self.may_pick = asyncio.Event()
        self.may_pick.set()
        self.refusal: Exception | None = None
        self.clock, self.metrics, self.view = ManualClock(), FrontMetrics(), ClusterView()
        names = (f"s{number}" for number in range(100))
        replicas: Any = SimpleNamespace(pick=self.pick, view=self.view, places=WaitingPlaces(1024))
        services = ChoiceServices(
            replicas, codec, self.clock, lambda: RequestId(next(names)), lambda: None
        )
        decision = SimpleNamespace(digests=(), scores=())
        decided: Any = SimpleNamespace(decision=decision, encoded=b"signed")
        spec = SequenceSpec(
            TenantId("acme"), (5,), SamplingParams(max_tokens=99), stop, decided, 0.0, 1.0
        )
        self.choices = [Choice(spec, services, index=index) for index in range(n)]
        self.times = TokenTimes(self.metrics, self.clock)
        self.relay = Relay(self.choices, self.times)

    async def pick(self, request: Any, *, wait_s: float, place: WaitingPlace) -> tuple[None, Link]:
        await self.may_pick.wait()
        if self.refusal is not None:
            raise self.refusal
        return None, next(one for one in self.links if one.replica_id not in request.exclude)

    def send(self, name: str, text: str = "", **fields: Any) -> None:
        """Send a chunk of a sequence, a token for each byte."""
        tokens = tuple(self.codec.encode(text))
        sink = next(link.sinks[name] for link in self.links if name in link.sinks)
        sink.put_nowait(GenerationChunk(RequestId(name), tokens, **fields))

    def lose(self, name: str) -> None:
        next(link.sinks[name] for link in self.links if name in link.sinks).put_nowait(None)

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def read(self) -> list[tuple[int, str]]:
        async with asyncio.timeout(20):
            found = await self.relay.next_deltas()
        return [(choice.index, delta.text) for choice, delta in found]

    async def begin(self) -> asyncio.Task[list[tuple[int, str]]]:
        task = asyncio.create_task(self.read())
        await self.settle()
        return task


async def test_a_first_token_is_not_held_back_and_what_waits_comes_together(
    codec: TextCodec,
) -> None:
    rig = Rig(codec, n=2)
    first = await rig.begin()
    rig.send("s1", "x")
    assert await first == [(1, "x")]
    for letter in "abc":
        rig.send("s0", letter)
        rig.send("s1", letter.upper())
    assert await rig.read() == [(0, "a"), (1, "A"), (0, "b"), (1, "B"), (0, "c"), (1, "C")]
    assert rig.relay.is_read
    rig.send("s0", "d", finish_reason=FinishReason.LENGTH)
    rig.send("s1", finish_reason=FinishReason.STOP)
    assert await rig.read() == [(0, "d"), (1, "")]
    assert await rig.read() == []
    assert [choice.generated for choice in rig.choices] == [4, 4]
    assert all(choice.is_complete for choice in rig.choices)


async def test_times_are_of_tokens(codec: TextCodec) -> None:
    rig = Rig(codec)
    first = await rig.begin()
    rig.send("s0", prompt_logprobs=())
    await first
    assert rig.times.first_token_at is None
    rig.clock.advance(2)
    rig.send("s0", "a")
    await rig.read()
    rig.clock.advance(3)
    rig.send("s0", "b")
    await rig.read()
    assert rig.times.first_token_at == rig.times.started + 2
    samples = {
        sample.name: sample.value
        for metric in (rig.metrics.ttft_seconds, rig.metrics.inter_token_seconds)
        for sample in next(iter(metric.collect())).samples
    }
    assert samples["braid_time_to_first_token_seconds_sum"] == 2
    assert samples["braid_inter_token_latency_seconds_sum"] == 3
    assert samples["braid_inter_token_latency_seconds_count"] == 1


async def test_what_had_come_is_told_before_a_failure(codec: TextCodec) -> None:
    rig = Rig(codec, n=2)
    first = await rig.begin()
    rig.send("s0", "a")
    await first
    rig.send("s0", "b")
    rig.send("s1", finish_reason=FinishReason.ERROR, error_code="engine_error", error_message="x")
    rig.send("s0", "never told")
    assert await rig.read() == [(0, "b")]
    for _ in range(2):
        with pytest.raises(EngineError, match="x"):
            await rig.read()
    rig.relay.close()
    assert rig.links[0].cancelled == ["s0"]  # the other one has ended there already


async def test_one_choice_goes_on_elsewhere_and_the_other_stays(codec: TextCodec) -> None:
    rig = Rig(codec, n=2)
    first = await rig.begin()
    rig.send("s0", "ab")
    assert await first == [(0, "ab")]
    rig.lose("s0")
    rig.send("s1", "x")
    assert await rig.read() == [(1, "x")]
    await rig.settle()
    (resumed,) = rig.links[1].submitted
    assert resumed.request.resumed_token_ids == tuple(codec.encode("ab"))
    rig.send("s2", "c", finish_reason=FinishReason.LENGTH)
    rig.send("s1", "y", finish_reason=FinishReason.LENGTH)
    assert await rig.read() == [(0, "c"), (1, "y")]
    assert [choice.failovers for choice in rig.choices] == [1, 0]


async def test_a_sequence_is_not_moved_for_ever(codec: TextCodec) -> None:
    rig = Rig(codec)
    reading = await rig.begin()
    for number in range(MAX_FAILOVERS + 1):
        rig.lose(f"s{number}")
        await rig.settle()
    with pytest.raises(ReplicaLost, match="4 replicas were lost"):
        await reading


async def test_what_comes_behind_a_stop_string_is_left_out(codec: TextCodec) -> None:
    rig = Rig(codec, stop=("END",))
    first = await rig.begin()
    for text in ("a", "E", "ND", "b", "c"):
        rig.send("s0", text)
    assert await first == [(0, "a"), (0, ""), (0, "")]
    assert await rig.read() == []
    assert rig.links[0].cancelled == ["s0"]
    assert rig.choices[0].answer.finish_reason is FinishReason.STOP
    assert rig.choices[0].answer.usage is not None
    assert rig.choices[0].answer.usage.completion_tokens == 4


async def test_no_replica_fails_the_request(codec: TextCodec) -> None:
    rig = Rig(codec, n=2)
    rig.refusal = Overloaded("full")
    with pytest.raises(Overloaded):
        await rig.read()


async def test_a_choice_without_a_replica_does_not_hold_back_the_others(codec: TextCodec) -> None:
    rig = Rig(codec, n=2)
    first = await rig.begin()
    rig.lose("s1")
    rig.may_pick.clear()
    await rig.settle()
    rig.send("s0", "a")
    assert await first == [(0, "a")]
    rig.relay.close()


async def test_a_client_that_goes_while_a_replica_is_looked_for_leaves_nothing(
    codec: TextCodec,
) -> None:
    rig = Rig(codec, n=3)
    rig.may_pick.clear()
    reading = await rig.begin()
    reading.cancel()
    rig.relay.close()
    rig.relay.close()
    rig.may_pick.set()
    await rig.settle()
    assert all(not link.submitted for link in rig.links)
    assert all(not choice.has_run for choice in rig.choices)
    assert await rig.read() == []


async def test_closing_cancels_what_runs_and_nothing_else(codec: TextCodec) -> None:
    rig = Rig(codec, n=2)
    first = await rig.begin()
    rig.send("s0", "a", finish_reason=FinishReason.STOP)
    await first
    rig.relay.close()
    assert rig.links[0].cancelled == ["s1"]
    assert [choice.is_complete for choice in rig.choices] == [True, False]
