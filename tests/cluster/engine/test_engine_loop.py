"""The step loop with a fake model: who gets which chunk, exactly once, whatever goes wrong."""

import threading
from collections.abc import Callable, Iterator

import pytest
import structlog
import torch

from cluster.config import EngineConfig
from cluster.domain.ids import RequestId, Slot
from cluster.domain.request import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    SamplingParams,
    TokenLogprobs,
    Usage,
)
from cluster.engine.engine import TorchEngine
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.scheduler import Scheduler
from cluster.errors import EngineError, Overloaded, PromptTooLong, ReplicaLost, RequestError
from tests.support.decisions import TENANT, decision_over
from tests.support.fake_runner import FakeRunner
from tests.support.manual_clock import ManualClock

EOS = 1


def request(name: str, prompt: int = 5, max_tokens: int = 4, **options) -> GenerationRequest:
    fields = {"sampling": SamplingParams(max_tokens=max_tokens, temperature=0.0)} | options
    return GenerationRequest(
        request_id=RequestId(name),
        tenant=TENANT,
        prompt_token_ids=tuple(range(10, 10 + prompt)),
        decision=decision_over(),
        **fields,
    )


class Harness:
    """An engine whose chunks are collected; ``wait`` returns a request's chunks when it ended."""

    def __init__(self, **config) -> None:
        options = {"kv_blocks": 16, "block_size": 4, "max_batch_size": 4, "max_model_len": 48}
        self.config = EngineConfig(**(options | config))
        self.clock = ManualClock()
        self.runner = FakeRunner()
        self.pool = BlockPool(self.config.usual_kv_blocks, self.config.block_size)
        self.deliveries: list[list[GenerationChunk]] = []
        self.on_delivery: Callable[[list[GenerationChunk]], None] | None = None
        self._arrived = threading.Condition()
        seeds = iter(range(1000, 2000))
        self.engine = TorchEngine(
            scheduler=Scheduler(self.config, self.pool, self.clock),
            pool=self.pool,
            runner=self.runner,
            max_model_len=self.config.max_model_len,
            eos_token_ids=frozenset({EOS}),
            clock=self.clock,
            on_chunks=self._receive,
            new_seed=lambda: next(seeds),
        )

    def _receive(self, chunks: list[GenerationChunk]) -> None:
        with self._arrived:
            self.deliveries.append(chunks)
            self._arrived.notify_all()
        if self.on_delivery is not None:
            self.on_delivery(chunks)

    def submit(self, request: GenerationRequest) -> None:
        self.engine.submit(request, "namespace", ())

    def chunks(self, name: str) -> list[GenerationChunk]:
        return [c for chunks in self.deliveries for c in chunks if c.request_id == name]

    def wait(self, *names: str) -> None:
        def ended() -> bool:
            return all(any(c.finish_reason for c in self.chunks(name)) for name in names)

        with self._arrived:
            assert self._arrived.wait_for(ended, timeout=30), f"no end for {names}"

    def tokens(self, name: str) -> list[int]:
        self.wait(name)
        return [token for chunk in self.chunks(name) for token in chunk.token_ids]

    def end(self, name: str) -> GenerationChunk:
        self.wait(name)
        ends = [c for c in self.chunks(name) if c.finish_reason is not None]
        assert len(ends) == 1
        assert self.chunks(name)[-1] is ends[0]
        return ends[0]


@pytest.fixture
def harness() -> Iterator[Callable[..., Harness]]:
    made: list[Harness] = []

    def make(**config) -> Harness:
        made.append(Harness(**config))
        return made[-1]

    yield make
    for one in made:
        if one.runner.gate is not None:
            one.runner.gate.release(10_000)
        assert one.engine.stop(drain=False, timeout_s=30)
        one.engine.check_integrity()
        assert one.engine.stats().counters.integrity_failures == 0
        names = {c.request_id for chunks in one.deliveries for c in chunks}
        for name in names:
            one.end(name)


def test_a_request_ends_once_with_its_usage(harness):
    h = harness()
    h.engine.start()
    h.submit(request("a"))
    assert h.tokens("a") == [100, 101, 102, 103]
    end = h.end("a")
    assert end.finish_reason is FinishReason.LENGTH
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (5, 4)
    assert [c.usage for c in h.chunks("a")[:-1]] == [None] * 3


def test_the_end_of_sequence_token_is_delivered_and_stops(harness):
    h = harness()
    h.runner.script["a"] = [7, EOS, 9, 9]
    h.runner.script["b"] = [7, EOS, 9, 9]
    h.engine.start()
    h.submit(request("a"))
    h.submit(request("b", sampling=SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True)))
    assert h.tokens("a") == [7, EOS]
    assert h.end("a").finish_reason is FinishReason.STOP
    assert h.tokens("b") == [7, EOS, 9]


def test_a_steps_chunks_come_in_one_call(harness):
    h = harness()
    for name in "abc":
        h.submit(request(name, prompt=4))  # less than a block to share, so none waits for another
    h.engine.start()
    h.wait(*"abc")
    assert [len(chunks) for chunks in h.deliveries] == [3, 3, 3, 3]


def test_a_resumed_request_goes_on_where_it_was(harness):
    h = harness()
    h.engine.start()
    h.submit(request("a", resumed_token_ids=(100, 101)))
    assert h.tokens("a") == [102, 103]
    assert h.end("a").usage.completion_tokens == 4


@pytest.mark.parametrize("resumed", [(100, 101, 102, 103), (100, EOS)])
def test_a_request_that_was_complete_already_just_ends(harness, resumed):
    h = harness()
    h.engine.start()
    h.submit(request("a", resumed_token_ids=resumed))
    assert h.tokens("a") == []
    assert h.end("a").usage.completion_tokens == len(resumed)


def test_cancelling_frees_blocks_and_spares_others(harness):
    h = harness()
    h.runner.gate = threading.Semaphore(0)
    h.submit(request("a", max_tokens=20))
    h.submit(request("b"))
    h.engine.start()
    assert h.runner.entered.acquire(timeout=30)
    assert h.engine.cancel(RequestId("a"))
    assert h.engine.cancel(RequestId("a"))
    h.runner.gate.release(100)
    assert h.end("a").finish_reason is FinishReason.CANCELLED
    assert h.tokens("b") == [100, 101, 102, 103]
    assert len(h.tokens("a")) == 1
    assert not h.engine.cancel(RequestId("a"))
    assert not h.engine.cancel(RequestId("never"))
    assert h.pool.num_free == h.pool.num_blocks


def test_a_waiting_request_can_be_cancelled(harness):
    h = harness(max_batch_size=1)
    h.runner.gate = threading.Semaphore(0)
    h.submit(request("a"))
    h.submit(request("b"))
    h.engine.cancel(RequestId("b"))
    h.engine.start()
    h.runner.gate.release(100)
    assert h.tokens("b") == []
    assert len(h.tokens("a")) == 4


def test_what_has_not_begun_can_be_taken_back(harness):
    h = harness(max_batch_size=1)
    h.runner.gate = threading.Semaphore(0)
    for name in "abc":
        h.submit(request(name))
    h.engine.start()
    assert h.runner.entered.acquire(timeout=30)
    h.engine.cancel(RequestId("c"))
    assert [h.engine.withdraw(RequestId(name)) for name in "abc"] == [False, True, False]
    assert not h.engine.withdraw(RequestId("b"))
    assert h.engine.stats().waiting == 1
    h.submit(request("b"))  # it may come again
    h.runner.gate.release(100)
    assert (len(h.tokens("a")), len(h.tokens("b")), h.tokens("c")) == (4, 4, [])
    assert h.end("c").finish_reason is FinishReason.CANCELLED


def test_what_comes_back_counts_as_when_it_first_began(harness):
    h = harness()
    before = Usage(9, 2, cached_tokens=4, queued_s=1.5)
    resumed = request("a", prompt=9, resumed_token_ids=(100, 101))
    h.engine.submit(resumed, "namespace", (), before=before)
    h.engine.start()
    assert h.tokens("a") == [102, 103]
    usage = h.end("a").usage
    assert (usage.completion_tokens, usage.cached_tokens, usage.queued_s) == (4, 4, 1.5)
    assert h.engine.stats().counters.prompt_tokens == 0


def test_equal_prompts_that_come_together_are_computed_once(harness):
    h = harness()
    for name in "abcd":
        h.submit(request(name, prompt=13))
    h.engine.start()
    assert [h.end(name).usage.cached_tokens for name in "abcd"] == [0, 12, 12, 12]


def test_a_failing_step_ends_its_requests_and_not_the_engine(harness):
    h = harness()
    h.runner.raises["a"] = RuntimeError("secret detail")
    h.submit(request("a", prompt=4))
    h.submit(request("b", prompt=4))
    h.engine.start()
    for name in "ab":
        end = h.end(name)
        assert end.finish_reason is FinishReason.ERROR
        assert end.error_code == EngineError.code
        assert "secret" not in end.error_message
    assert h.pool.num_free == h.pool.num_blocks
    h.submit(request("c"))
    assert len(h.tokens("c")) == 4
    counters = h.engine.stats().counters
    assert (counters.failed_steps, counters.failed_requests) == (1, 2)


def test_a_failing_row_ends_its_request_alone(harness):
    h = harness()
    h.runner.failed["a"] = "not finite"
    h.submit(request("a"))
    h.submit(request("b"))
    h.engine.start()
    assert h.tokens("a") == []
    assert h.end("a").error_message == "not finite"
    assert len(h.tokens("b")) == 4


def test_a_failing_receiver_does_not_stop_the_engine(harness):
    h = harness()

    def fail(chunks: list[GenerationChunk]) -> None:
        raise ValueError("receiver")

    h.on_delivery = fail
    h.engine.start()
    h.submit(request("a"))
    assert len(h.tokens("a")) == 4
    h.submit(request("b"))
    assert len(h.tokens("b")) == 4


def test_a_loop_that_cannot_start_tells_everyone(harness):
    h = harness()
    h.runner.at_start = RuntimeError("no device")
    h.submit(request("a"))
    h.engine.start()
    assert h.end("a").error_code == ReplicaLost.code
    assert h.engine.stop(drain=True, timeout_s=30)
    assert h.engine.stalled_for() == float("inf")
    with pytest.raises(ReplicaLost, match="stopping"):
        h.submit(request("b"))


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: unspecified launch failure"),
    ],
)
def test_a_lost_device_ends_the_engine_and_every_request_goes_elsewhere(harness, error):
    h = harness()
    h.runner.raises["b"] = error
    for name in ("a", "b", "waits"):
        h.submit(request(name))
    h.engine.start()
    assert {h.end(name).error_code for name in ("a", "b", "waits")} == {ReplicaLost.code}
    assert h.engine.stop(drain=True, timeout_s=30)
    assert h.engine.stalled_for() == float("inf")
    with pytest.raises(ReplicaLost):
        h.submit(request("c"))


def test_a_lack_of_memory_ends_a_step_alone(harness):
    h = harness()
    h.runner.raises["a"] = torch.AcceleratorError("CUDA error: out of memory")
    h.engine.start()
    h.submit(request("a"))
    assert h.end("a").error_code == EngineError.code
    h.submit(request("b"))
    assert len(h.tokens("b")) == 4


def test_what_another_thread_meets_ends_an_idle_engine(harness):
    h = harness()
    h.engine.start()
    h.submit(request("a"))
    h.wait("a")
    h.engine.give_up(torch.AcceleratorError("CUDA error: an illegal memory access"))
    assert h.engine.stop(drain=True, timeout_s=30)
    assert h.engine.stalled_for() == float("inf")


def test_a_deadline_ends_a_request_and_keeps_its_tokens(harness):
    h = harness()
    h.runner.gate = threading.Semaphore(0)
    h.submit(request("a", max_tokens=20, deadline_at=h.clock.monotonic() + 5))
    h.engine.start()
    assert h.runner.entered.acquire(timeout=30)
    h.clock.advance(6)
    h.runner.gate.release(100)
    assert h.end("a").finish_reason is FinishReason.DEADLINE
    assert h.tokens("a") == [100]


def test_stopping_with_drain_completes_what_is_live(harness):
    h = harness()
    h.runner.gate = threading.Semaphore(0)
    h.submit(request("a"))
    h.engine.start()
    assert not h.engine.stop(drain=True, timeout_s=0.0)
    with pytest.raises(ReplicaLost, match="stopping"):
        h.submit(request("b"))
    h.runner.gate.release(100)
    assert h.engine.stop(drain=True, timeout_s=30)
    assert len(h.tokens("a")) == 4


def test_stopping_at_once_ends_with_a_lost_replica(harness):
    h = harness(max_batch_size=1)
    h.runner.gate = threading.Semaphore(0)
    h.submit(request("a"))
    h.submit(request("b"))
    h.engine.start()
    assert h.runner.entered.acquire(timeout=30)
    assert not h.engine.stop(drain=False, timeout_s=0.0)
    h.runner.gate.release(100)
    for name in "ab":
        assert h.end(name).error_code == ReplicaLost.code
    assert h.tokens("a") == [100]


def test_refusals_are_raised_to_the_caller(harness):
    h = harness(max_queued=0, max_batch_size=1)
    h.submit(request("a"))
    with pytest.raises(Overloaded):
        h.submit(request("b"))
    with pytest.raises(RequestError, match="already being served"):
        h.submit(request("a"))
    with pytest.raises(PromptTooLong):
        h.submit(request("c", prompt=48))
    with pytest.raises(RequestError, match="no tokens"):
        h.submit(request("d", prompt=0))
    with pytest.raises(EngineError, match="temperature"):
        h.submit(request("e", sampling=SamplingParams(max_tokens=1, temperature=-1.0)))
    with pytest.raises(EngineError, match="weight"):
        h.engine.submit(request("f"), "namespace", ((Slot(0), float("nan")),))
    h.engine.start()
    assert len(h.tokens("a")) == 4


def test_one_seed_per_request_drawn_only_where_none_is_given(harness):
    h = harness()
    h.submit(request("a", sampling=SamplingParams(max_tokens=3, seed=5)))
    h.submit(request("b", sampling=SamplingParams(max_tokens=3)))
    h.engine.start()
    h.wait("a", "b")
    assert h.runner.seeds == {"a": {5}, "b": {1000}}


def test_preemption_repeats_no_token(harness):
    # Each request needs 6 blocks in the end, and there are 8.
    h = harness(kv_blocks=8)
    with structlog.testing.capture_logs() as lines:
        for name in "abc":
            h.submit(request(name, max_tokens=18, http_request=f"http-{name}"))
        h.engine.start()
        for name in "abc":
            assert h.tokens(name) == [100 + n for n in range(18)]
    told = [line for line in lines if line["event"] == "engine.preempted"]
    assert len(told) == h.engine.stats().preemptions > 0
    assert all(line["request"] == f"http-{line['sequence']}" for line in told)


def test_stats_count_tokens_and_prefix_hits(harness):
    h = harness()
    h.engine.start()
    h.submit(request("a", prompt=9))
    h.wait("a")
    h.submit(request("b", prompt=9))
    assert h.end("b").usage.cached_tokens == 8
    assert h.engine.stop(drain=True, timeout_s=30)
    stats = h.engine.stats()
    counters = stats.counters
    assert (stats.running, stats.waiting, stats.kv_blocks_free) == (0, 0, 16)
    assert (counters.prompt_tokens, counters.generated_tokens) == (18, 8)
    assert (counters.prefix_queried_tokens, counters.prefix_hit_tokens) == (18, 8)
    assert (counters.steps, counters.step_tokens) == (8, 9 + 3 + 1 + 3)
    assert dict(stats.as_counters())["generated_tokens"] == 8


def test_the_heartbeat_shows_a_step_that_hangs(harness):
    h = harness()
    h.runner.gate = threading.Semaphore(0)
    assert h.engine.stalled_for() == float("inf")
    h.engine.start()
    h.submit(request("a"))
    assert h.runner.entered.acquire(timeout=30)
    h.clock.advance(7)
    assert h.engine.stalled_for() == pytest.approx(7)


def test_logprobs_travel_with_their_token(harness):
    h = harness()
    h.runner.logprobs[RequestId("a")] = TokenLogprobs(-0.5, ((100, -0.5),))
    h.submit(request("a", max_tokens=1))
    h.submit(request("b", max_tokens=1))
    h.engine.start()
    assert h.end("a").logprobs == (TokenLogprobs(-0.5, ((100, -0.5),)),)
    assert h.end("b").logprobs == ()


def test_an_engine_starts_once(harness):
    h = harness()
    h.engine.start()
    with pytest.raises(EngineError, match="started before"):
        h.engine.start()


def test_steps_are_counted_by_what_they_computed(harness):
    h = harness(max_batch_tokens=16)
    h.runner.sizes[Slot(3)] = (50, 4)
    h.engine.submit(request("a", prompt=19, max_tokens=3), "a", ((Slot(3), 1.0),))
    assert h.engine.backlog() == {TENANT: 19}
    h.engine.start()
    h.wait("a")
    assert h.engine.backlog() == {}
    totals = h.engine.stats().counters.step_totals
    # Chunks of 16 and 3 tokens, then two rows over 20 and 21 tokens, in blocks of 4.
    assert (totals.steps, totals.prefill_tokens, totals.decode_rows) == (4, 19, 2)
    assert totals.context_blocks == 4 + 5 + 5 + 6
    assert (totals.adapter_bytes, totals.rank_rows) == (4 * 50, 21 * 4)
    assert dict(h.engine.stats().as_counters())["rank_rows"] == 84


def test_a_step_that_fails_counts_for_nothing(harness):
    h = harness()
    h.runner.raises["a"] = RuntimeError("broken")
    h.submit(request("a"))
    h.engine.start()
    assert h.end("a").finish_reason is FinishReason.ERROR
    counters = h.engine.stats().counters
    assert (counters.steps, counters.prefill_tokens, counters.failed_steps) == (0, 0, 1)
