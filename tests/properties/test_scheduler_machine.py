"""The scheduler against a model that computes each request alone.

The machine plays the runner with a memory in which each token's entry is what its keys and values
are functions of: the namespaces and all tokens up to it. A token is sampled from the entry found
through the block table, so a block shared, reclaimed, overwritten or skipped wrongly changes what
is generated, and the outcome differs from the request's own continuation computed without any
scheduler.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from cluster.config import EngineConfig
from cluster.domain.ids import RequestId, TenantId
from cluster.domain.request import FinishReason, GenerationRequest, SamplingParams
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.scheduler import Scheduler
from cluster.engine.sequence import EngineSequence, SequenceStatus
from cluster.engine.spans import span_at
from cluster.engine.steps import StepPlan
from cluster.errors import EngineError, Overloaded, PromptTooLong
from tests.support.decisions import TENANT, decision_over
from tests.support.kv_model import (
    SLOTS,
    STOP,
    Entry,
    alone,
    entry_of,
    mixture,
    next_token,
    path_of,
    used_blocks,
)
from tests.support.manual_clock import ManualClock


@dataclass
class Expected:
    sequence: EngineSequence
    tokens: list[int]  # at its end, when nothing cuts it short
    deadline: float | None


@dataclass(frozen=True)
class Arrival:
    prompt: list[int]
    namespace: str
    max_tokens: int
    resumed: int  # tokens of its continuation that it brings along, at most
    deadline: int | None  # seconds from now
    whole: bool
    tenant: str
    weight: float
    adapters: str  # one letter each


ARRIVALS = st.builds(
    Arrival,
    prompt=st.one_of(
        st.lists(st.integers(1, 2), min_size=1, max_size=20),
        st.integers(1, 24).map(lambda length: ([1, 2, 3] * 8)[:length]),  # share prefixes
    ),
    namespace=st.sampled_from(("x", "y")),
    max_tokens=st.one_of(st.integers(0, 3), st.integers(8, 24), st.just(24)),
    resumed=st.sampled_from((0, 0, 0, 1, 4, 25)),
    deadline=st.sampled_from((None, None, -1, 0, 3, 8)),
    whole=st.sampled_from((False, False, False, True)),
    tenant=st.sampled_from("ttuv"),
    weight=st.sampled_from((1.0, 1.0, 0.001, 0.3, 4.0, 1000.0)),
    adapters=st.sampled_from(("", "", "a", "ab")),
)


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.live: dict[RequestId, Expected] = {}
        self.count = 0
        self.plan: StepPlan | None = None
        self.tables: dict[RequestId, list[int]] = {}  # of the plan, as they were when it was made
        self.progress: dict[RequestId, tuple[int, int]] = {}  # (preemptions, tokens computed)
        self.weights: dict[TenantId, float] = {}  # the newest of each tenant
        self.admitted: dict[tuple[str, str], int] = {}  # latest arrival admitted, by queue

    @initialize(
        batch=st.sampled_from((4, 3, 2, 1, 6)),
        tokens=st.integers(16, 20),
        blocks=st.sampled_from((12, 16, 8, 4, 24)),
        size=st.sampled_from((2, 1, 3, 4)),
        queued=st.sampled_from((100, 2, 0)),
        prefix_cache=st.sampled_from((True, True, False)),
        fairness=st.sampled_from(("adapter", "adapter", "fifo")),
        arrivals=st.lists(ARRIVALS, min_size=3, max_size=10),
    )
    def start(
        self,
        batch: int,
        tokens: int,
        blocks: int,
        size: int,
        queued: int,
        prefix_cache: bool,
        fairness: Literal["adapter", "fifo"],
        arrivals: list[Arrival],
    ) -> None:
        self.config = EngineConfig(
            max_model_len=40,
            block_size=size,
            kv_blocks=blocks,
            max_batch_size=batch,
            max_batch_tokens=tokens,
            max_queued=queued,
            prefix_cache=prefix_cache,
            fairness=fairness,
        )
        self.pool = BlockPool(blocks, size)
        self.clock = ManualClock(1000.0)
        self.scheduler = Scheduler(self.config, self.pool, self.clock)
        self.memory: list[list[Entry | None]] = [[None] * size for _ in range(blocks)]
        self.add(arrivals)

    @rule(arrivals=st.lists(ARRIVALS, min_size=1, max_size=6))
    def add(self, arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            self.add_one(arrival)

    def add_one(self, arrival: Arrival) -> None:
        self.count += 1
        prompt, window = arrival.prompt, self.scheduler.max_model_len
        continuation = alone(((0, arrival.namespace),), prompt, len(prompt) + arrival.max_tokens)
        resumed = continuation[len(prompt) : len(prompt) + arrival.resumed]
        now = self.clock.monotonic()
        request = GenerationRequest(
            request_id=RequestId(f"r{self.count}"),
            tenant=TenantId(arrival.tenant),
            prompt_token_ids=tuple(prompt),
            sampling=SamplingParams(max_tokens=arrival.max_tokens),
            decision=decision_over(arrival.adapters),
            resumed_token_ids=tuple(resumed),
            deadline_at=None if arrival.deadline is None else now + arrival.deadline,
            weight=arrival.weight,
        )
        try:
            sequence = EngineSequence.create(
                request,
                namespace=arrival.namespace,
                adapters=mixture(arrival.namespace),
                stop_token_ids=frozenset({STOP}),
                max_model_len=window,
                whole_prefill=arrival.whole,
            )
            self.scheduler.add_sequence(sequence)
        except PromptTooLong:
            blocks = self.pool.blocks_for(len(prompt) + len(resumed))
            assert len(prompt) >= window or blocks > self.pool.num_blocks
            return
        except Overloaded:
            limit = self.config.max_queued + self.config.max_batch_size - self.scheduler.running
            tenants = [s.request.tenant for s in self.scheduler.sequences[self.scheduler.running :]]
            assert len(tenants) >= limit
            if self.config.fairness == "adapter":
                weights = {tenant: self.weights[tenant] for tenant in tenants}
                weights[request.tenant] = arrival.weight
                own = tenants.count(request.tenant)
                assert own * sum(weights.values()) >= limit * arrival.weight
            return
        self.weights[request.tenant] = arrival.weight
        tokens = list(sequence.token_ids)
        if sequence.end_by_tokens is None:
            tokens = alone(path_of(sequence), tokens, sequence.max_len)
        self.live[sequence.request_id] = Expected(sequence, tokens, request.deadline_at)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from([RequestId("unknown"), *sorted(self.live)]))
        ended = self.scheduler.cancel(request_id)
        expected = self.live.pop(request_id, None)
        if expected is None:
            assert ended is None
        else:
            assert ended is expected.sequence
            assert ended.finish_reason is FinishReason.CANCELLED
            self.check_ended(expected)

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from([RequestId("unknown"), *sorted(self.live)]))
        expected = self.live.get(request_id)
        never_admitted = expected is not None and expected.sequence.admission < 0
        assert self.scheduler.withdraw(request_id) is never_admitted
        if never_admitted:
            del self.live[request_id]

    @precondition(lambda self: any(e.sequence.num_computed for e in self.live.values()))
    @rule(
        data=st.data(),
        namespace=st.sampled_from(sorted(SLOTS)),
        after=st.sampled_from((0, 0, 1, 3, 9)),
    )
    def reroute(self, data: st.DataObject, namespace: str, after: int) -> None:
        """Reroute a request at any time, also while a plan is being computed."""
        running = sorted(n for n, e in self.live.items() if e.sequence.num_computed)
        request_id = data.draw(st.sampled_from(running))
        expected = self.live[request_id]
        sequence = expected.sequence
        if sequence.whole_prefill or sequence.spans[-1].start >= sequence.num_tokens:
            with pytest.raises(EngineError):
                self.scheduler.reroute(request_id, namespace, mixture(namespace), after)
            return
        begun = sequence.num_tokens
        start = self.scheduler.reroute(request_id, namespace, mixture(namespace), after)
        assert start == max(begun - sequence.prompt_len, after)
        if sequence.end_by_tokens is None:
            expected.tokens = alone(path_of(sequence), sequence.token_ids, sequence.max_len)

    @rule(seconds=st.integers(0, 4))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def expire(self) -> None:
        self.end(self.scheduler.expire())
        now = self.clock.monotonic()
        for expected in self.live.values():
            assert expected.deadline is None or expected.deadline > now

    @rule()
    def schedule(self) -> None:
        """Make a plan; an open one is given up, as after a failed step that wrote its memory."""
        if self.plan is not None:
            self.write()
        before = {s.request_id for s in self.scheduler.sequences if s.admission < 0}
        rows = self.rows()
        self.plan = self.scheduler.schedule()
        self.check_admissions(before)
        self.check_yields(rows)
        if self.plan is None:
            assert not self.live
            return
        self.tables = {
            item.sequence.request_id: list(item.sequence.block_table)
            for item in self.plan.scheduled
        }
        self.check_plan(self.plan)

    @precondition(lambda self: self.plan is not None)
    @rule()
    def commit(self) -> None:
        plan = self.plan
        assert plan is not None
        self.plan = None
        sampled = self.write(plan)
        before = {item.sequence.request_id: item.sequence.num_tokens for item in plan.scheduled}
        ended = self.scheduler.commit(plan, sampled)
        for item in plan.scheduled:
            expected = self.live.get(item.sequence.request_id)
            if expected is None:
                assert item.sequence.num_tokens == before[item.sequence.request_id]
            elif item.sequence not in ended:
                assert item.sequence.num_computed == item.end
                assert item.sequence.num_tokens == before[item.sequence.request_id] + item.samples
        self.end(ended)

    @rule(count=st.integers(1, 12))
    def run(self, count: int) -> None:
        """Run several steps in a row, with nothing between."""
        for _ in range(count):
            self.schedule()
            if self.plan is None:
                return
            self.commit()
            self.books_balance()

    def write(self, plan: StepPlan | None = None) -> dict[RequestId, int]:
        """Compute a plan's tokens into memory, those of sequences cancelled since included."""
        plan = plan or self.plan
        assert plan is not None
        size = self.pool.block_size
        sampled = {}
        for item in plan.scheduled:
            sequence, table = item.sequence, self.tables[item.sequence.request_id]
            path = path_of(sequence)
            entries = [
                entry_of(path, sequence.token_ids[: position + 1]) for position in range(item.end)
            ]
            first = span_at(sequence.spans, item.start)  # recomputed tokens may lie in several
            if not sequence.is_finished:
                assert sequence.adapters == sequence.spans[first].adapters
                assert first >= sequence.first_held or sequence.is_recomputable
            if not sequence.is_finished:
                for position in range(item.start):
                    found = self.memory[table[position // size]][position % size]
                    assert found == entries[position]
            for position in range(item.start, item.end):
                self.memory[table[position // size]][position % size] = entries[position]
        for item in plan.scheduled:  # after all writes: no two may have met in one place
            position = item.end - 1
            table = self.tables[item.sequence.request_id]
            entry = self.memory[table[position // size]][position % size]
            assert entry is not None
            if not item.sequence.is_finished:
                assert entry[1] == tuple(item.sequence.token_ids[: item.end])
            if item.samples:
                sampled[item.sequence.request_id] = next_token(entry)
        return sampled

    def check_plan(self, plan: StepPlan) -> None:
        running = {id(item.sequence): item for item in plan.scheduled}
        assert len(running) == len(plan.scheduled) <= self.config.max_batch_size
        for item in plan.scheduled:
            sequence = item.sequence
            assert self.live[sequence.request_id].sequence is sequence
            assert sequence.status is SequenceStatus.RUNNING
            assert item.count >= 1
            assert item.start == sequence.num_computed
            assert item.samples is (item.end == sequence.num_tokens)
            assert len(sequence.block_table) >= self.pool.blocks_for(item.end)
            assert sequence.num_cached <= sequence.prompt_len
            if sequence.whole_prefill and item.start < sequence.prompt_len:
                assert (item.start, item.end >= sequence.prompt_len) == (0, True)
        prefills = [item for item in plan.scheduled if item.count > 1]
        if plan.num_tokens > self.config.max_batch_tokens:
            assert len(prefills) == 1
            assert prefills[0].sequence.whole_prefill
            assert prefills[0].end == prefills[0].sequence.prompt_len
        live = self.scheduler.sequences
        for sequence in live[: self.scheduler.running]:
            assert sequence.is_prefilling or id(sequence) in running  # decodes never wait
        assert id(live[0]) in running  # the oldest always advances

    def check_admissions(self, before: set[RequestId]) -> None:
        """Assert that a queue admits in order of arrival, and never while preempted ones of its
        tenant wait."""
        admitted = [s for s in self.scheduler.sequences if s.request_id in before]
        admitted = [s for s in admitted if s.admission >= 0]
        for sequence in sorted(admitted, key=lambda s: s.admission):
            digests = "".join(sequence.request.decision.digests)
            key = (str(sequence.request.tenant), digests)
            if self.config.fairness == "fifo":
                key = ("", "")
            assert self.admitted.get(key, -1) < sequence.arrival
            self.admitted[key] = sequence.arrival
        waiting = [s for s in self.scheduler.sequences if s.status is SequenceStatus.WAITING]
        preempted = {s.request.tenant for s in waiting if s.admission >= 0}
        assert preempted.isdisjoint(s.request.tenant for s in admitted)
        if self.config.fairness == "fifo" and admitted:
            assert not preempted
        # A held sequence waits for a block that a running sequence computes.
        queue, pending = self.scheduler._order._queue, self.scheduler._prefixes._pending
        assert all(pending.is_pending(key) for key in queue._deferred)

    def rows(self) -> Counter[str]:
        running = self.scheduler.sequences[: self.scheduler.running]
        return Counter(str(s.request.tenant) for s in running)

    def check_yields(self, rows: Counter[str]) -> None:
        """Assert that a tenant whose rows yield in a step keeps one."""
        yielded = Counter(
            str(sequence.request.tenant)
            for sequence in self.scheduler.newly_preempted
            if sequence.kept_tokens
        )
        assert self.config.fairness == "adapter" or not yielded
        assert all(count < rows[tenant] for tenant, count in yielded.items())

    def end(self, ended: list[EngineSequence]) -> None:
        for sequence in ended:
            expected = self.live.pop(sequence.request_id)  # a second end would not be found
            assert expected.sequence is sequence
            self.check_ended(expected)
            if sequence.finish_reason is FinishReason.DEADLINE:
                assert expected.deadline is not None
                assert expected.deadline <= self.clock.wall()
                continue
            assert sequence.token_ids == expected.tokens
            stopped = sequence.num_generated > 0 and sequence.token_ids[-1] == STOP
            reason = FinishReason.STOP if stopped else FinishReason.LENGTH
            assert sequence.finish_reason is reason

    def check_ended(self, expected: Expected) -> None:
        sequence = expected.sequence
        assert sequence.is_finished
        assert sequence.block_table == []
        assert sequence.token_ids == expected.tokens[: sequence.num_tokens]

    @invariant()
    def books_balance(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.scheduler.check_integrity()
        assert self.scheduler.waiting + self.scheduler.running == len(self.live)
        families: dict[int, set[str]] = {}
        for expected in self.live.values():
            sequence = expected.sequence
            assert sequence.finish_reason is None
            for block in sequence.block_table:
                families.setdefault(block, set()).add(sequence.namespace)
            preemptions, computed = self.progress.get(sequence.request_id, (0, 0))
            if preemptions == sequence.num_preemptions:
                assert sequence.num_computed >= computed
            self.progress[sequence.request_id] = (sequence.num_preemptions, sequence.num_computed)
        assert all(len(namespaces) == 1 for namespaces in families.values())

    def teardown(self) -> None:
        """Assert that all ends without further arrivals, and that the pool is whole again."""
        if not hasattr(self, "scheduler"):
            return
        if self.plan is not None:
            self.commit()
        steps = 0
        while True:
            self.schedule()
            if self.plan is None:
                break
            self.commit()
            self.books_balance()
            steps += 1
            assert steps < 2000, "the scheduler does not come to an end"
        assert self.live == {}
        assert used_blocks(self.pool) == 0
        assert self.pool.num_free == self.pool.num_blocks
        if not self.config.prefix_cache:
            assert self.pool.num_cached == 0


SchedulerMachine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None
)
TestScheduler = SchedulerMachine.TestCase


@pytest.mark.parametrize("prefix_cache", [True, False])
@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 10)), min_size=1, max_size=8),
    blocks=st.integers(10, 16),
)
def test_plans_depend_on_arrival_and_sizes_only(
    prefix_cache: bool, sizes: list[tuple[int, int]], blocks: int
) -> None:
    """Other ids, other times and other tokens (of no common prefix) give the same plans."""

    def plans(salt: int) -> list[list[tuple[int, int, int, bool]]]:
        config = EngineConfig(
            block_size=4, kv_blocks=blocks, max_batch_size=3, max_batch_tokens=16,
            max_model_len=40, prefix_cache=prefix_cache,
        )  # fmt: skip
        clock = ManualClock(100.0 * salt)
        scheduler = Scheduler(config, BlockPool(blocks, 4), clock)
        for index, (length, max_tokens) in enumerate(sizes):
            request = GenerationRequest(
                request_id=RequestId(f"{-index * salt}"),
                tenant=TENANT,
                prompt_token_ids=(index + 100 * salt,) * length,
                sampling=SamplingParams(max_tokens=max_tokens),
                decision=decision_over(),
            )
            scheduler.add_sequence(
                EngineSequence.create(
                    request,
                    namespace=str(salt),
                    adapters=(),
                    stop_token_ids=frozenset(),
                    max_model_len=40,
                )
            )
        made = []
        while (plan := scheduler.schedule()) is not None:
            made.append([(i.sequence.arrival, i.start, i.count, i.samples) for i in plan.scheduled])
            clock.advance(salt)
            scheduler.commit(plan, {i.sequence.request_id: salt for i in plan.scheduled})
        return made

    assert plans(1) == plans(2)
