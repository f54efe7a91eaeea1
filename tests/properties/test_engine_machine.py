"""The step loop under arbitrary arrivals, cancellations, deadlines and failures, step by step.

Whatever happens, every request ends in exactly one last chunk, its tokens are the ones it would
have got alone, its prompt is reported once where that was asked for, and no block stays behind.
"""

import itertools

import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster.config import EngineConfig
from cluster.domain.ids import RequestId
from cluster.domain.request import FinishReason, GenerationChunk, SamplingParams
from cluster.engine.engine import TorchEngine
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.scheduler import Scheduler
from cluster.errors import Overloaded
from tests.support.engines import make_request
from tests.support.fake_runner import FakeRunner
from tests.support.manual_clock import ManualClock


class EngineMachine(RuleBasedStateMachine):
    """Drives ``_step`` from the test's own thread, so that every failure shrinks."""

    def __init__(self) -> None:
        super().__init__()
        config = EngineConfig(
            kv_blocks=10,
            block_size=4,
            max_batch_size=3,
            max_batch_tokens=16,
            max_queued=3,
            max_model_len=32,
        )
        self.clock = ManualClock()
        self.pool = BlockPool(config.usual_kv_blocks, config.block_size)
        self.runner = FakeRunner()
        self.engine = TorchEngine(
            scheduler=Scheduler(config, self.pool, self.clock),
            pool=self.pool,
            runner=self.runner,
            max_model_len=config.max_model_len,
            eos_token_ids=frozenset(),
            clock=self.clock,
            on_chunks=self.receive,
            new_seed=lambda: 0,
        )
        self.ids = itertools.count()
        self.live: dict[RequestId, int] = {}  # tokens still to come, were it left alone
        self.tokens: dict[RequestId, list[int]] = {}
        self.told: dict[RequestId, list[float]] = {}  # of the prompts
        self.rows: dict[RequestId, int] = {}  # of each prompt, to be reported
        self.doomed: set[RequestId] = set()  # cancelled: ends before another token

    def receive(self, chunks: list[GenerationChunk]) -> None:
        named = [chunk.request_id for chunk in chunks]
        assert len(named) == len(set(named)), "two chunks of one request in one step"
        for chunk in chunks:
            assert chunk.request_id in self.live, "a chunk after the last one"
            assert not (chunk.token_ids and chunk.request_id in self.doomed)
            told = self.told[chunk.request_id]
            assert not (chunk.prompt_logprobs and self.tokens[chunk.request_id])
            told += [item.logprob for item in chunk.prompt_logprobs]
            assert told == [-float(n) for n in range(len(told))]
            self.tokens[chunk.request_id] += chunk.token_ids
            if self.tokens[chunk.request_id]:
                assert len(told) == self.rows[chunk.request_id]
            assert (chunk.finish_reason is None) == (chunk.usage is None)
            if chunk.finish_reason is None:
                continue
            wanted = self.live.pop(chunk.request_id)
            got = self.tokens[chunk.request_id]
            assert got == [100 + n for n in range(len(got))]
            assert chunk.usage.completion_tokens == len(got)
            if chunk.finish_reason is FinishReason.LENGTH:
                assert len(got) == wanted
                assert len(told) == self.rows[chunk.request_id]
            else:
                assert len(got) < max(wanted, 1)
            if chunk.finish_reason is FinishReason.CANCELLED:
                assert chunk.request_id in self.doomed
            assert (chunk.error_code is not None) == (chunk.finish_reason is FinishReason.ERROR)

    @rule(
        prompt=st.integers(1, 20),
        max_tokens=st.integers(0, 12),
        deadline=st.none() | st.integers(1, 9),
        scored=st.booleans(),
    )
    def submit(self, prompt: int, max_tokens: int, deadline: int | None, scored: bool) -> None:
        name = RequestId(str(next(self.ids)))
        request = make_request(
            name,
            range(prompt),
            SamplingParams(
                max_tokens=max_tokens, temperature=0.0, prompt_logprobs=0 if scored else None
            ),
            deadline_at=None if deadline is None else self.clock.monotonic() + deadline,
        )
        try:
            self.engine.submit(request, "namespace", ())
        except Overloaded:
            assert len(self.live) >= 3
            return
        self.live[name] = max_tokens
        self.tokens[name] = []
        self.told[name] = []
        self.rows[name] = prompt - 1 if scored else 0

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.live)))
        assert self.engine.cancel(name)
        self.doomed.add(name)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), alone=st.booleans())
    def fail(self, data: st.DataObject, alone: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.live)))
        if alone:
            self.runner.failed[name] = "this row"
        else:
            self.runner.raises[name] = RuntimeError("this step")

    @rule(seconds=st.integers(1, 5))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.run_step()
            assert not self.doomed & self.live.keys()

    def run_step(self) -> None:
        with structlog.testing.capture_logs():
            self.engine._loop.step()

    @invariant()
    def books_balance(self) -> None:
        self.engine.check_integrity()
        stats = self.engine.stats()
        assert stats.running + stats.waiting == len(self.live)

    def teardown(self) -> None:
        for _ in range(400):
            if not self.live:
                break
            self.run_step()
        assert not self.live, "a request that never ends"
        assert self.pool.num_free == self.pool.num_blocks
        assert self.engine.stats().counters.callback_failures == 0
        self.engine.check_integrity()


EngineMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestEngineMachine = EngineMachine.TestCase
