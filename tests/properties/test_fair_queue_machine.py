"""The waiting queue against a naive model, and its bounds under adversarial arrivals.

The model looks at all that waits whenever it is asked whose turn it is. The bounds are checked
from the outside, on the costs of what was admitted while a sequence waited.
"""

import itertools
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.domain.adapter import AdapterKey, WeightedAdapter
from cluster.domain.ids import AdapterDigest, RequestId, TenantId
from cluster.domain.request import GenerationRequest, SamplingParams
from cluster.engine.scheduling.fair_queue import FairQueue
from cluster.engine.sequence import EngineSequence
from cluster.tenancy.turns import Flow, Turns
from tests.support.decisions import decision_over

LARGEST = 20  # tokens
Key = tuple[str, str]  # (tenant, adapters, one letter each)


def make_sequence(index: int, key: Key, *, weight: float = 1.0) -> EngineSequence:
    tenant, adapters = TenantId(key[0]), key[1]
    mixture = tuple(
        WeightedAdapter(AdapterKey(tenant, name, AdapterDigest(name)), 0.5 + index)
        for name in adapters
    )
    decision = decision_over(tenant=tenant, mixture=mixture)
    request = GenerationRequest(
        request_id=RequestId(f"r{index}"),
        tenant=tenant,
        prompt_token_ids=(1,),
        sampling=SamplingParams(max_tokens=1),
        decision=decision,
        weight=weight,
    )
    sequence = EngineSequence.create(
        request, namespace="", adapters=(), stop_token_ids=frozenset(), max_model_len=8
    )
    sequence.arrival = index
    return sequence


@dataclass
class Turn:
    """A flow of the model."""

    start: int
    since: int  # when it took this place in the order
    waits: bool = True


@dataclass
class Level:
    """Flows of the model, all in one dictionary; those that wait are looked through each time."""

    turns: dict[str, Turn] = field(default_factory=dict)
    clock: int = 0
    moment: int = 0

    def place(self, name: str, start: int) -> None:
        self.moment += 1
        self.turns[name] = Turn(start, self.moment)

    def resume(self, name: str) -> None:
        waiting = [turn.start for turn in self.turns.values() if turn.waits]
        self.place(name, max(self.turns[name].start, min(waiting, default=self.clock)))

    def first(self) -> str | None:
        waiting = {name: turn for name, turn in self.turns.items() if turn.waits}
        return min(waiting, key=lambda n: (waiting[n].start, waiting[n].since), default=None)

    def charge(self, name: str, cost: int) -> None:
        end = self.turns[name].start + cost
        self.clock = max(self.clock, end)
        self.place(name, end)


@dataclass
class Waiting:
    """One sequence of the model, and what was admitted while it waited."""

    sequence: EngineSequence
    key: Key
    since_arrival: Counter[Key] = field(default_factory=Counter)
    since_head: Counter[Key] = field(default_factory=Counter)
    limit: int | None = None
    was_held: bool = False  # it, or one ahead of it


class FairQueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Waiting] = []  # in order of arrival
        self.tenants = Level()
        self.queues: dict[str, Level] = {}
        self.held: dict[Key, str] = {}
        self.count = 0
        self.pops = 0
        self.largest = 1  # cost so far
        self.spreads: dict[tuple[Key, Key], tuple[int, int, int]] = {}

    @initialize(passes=st.integers(0, 6), fair=st.sampled_from((True, True, True, False)))
    def start(self, passes: int, fair: bool) -> None:
        self.passes = passes
        self.fair = fair
        self.queue = FairQueue(fair=fair, max_passes=passes)

    def of(self, key: Key) -> list[Waiting]:
        return [one for one in self.waiting if one.key == key]

    @rule(
        tenant=st.sampled_from("aaaabcde"), adapters=st.sampled_from("xxxyz"), n=st.integers(1, 6)
    )
    def append(self, tenant: str, adapters: str, n: int) -> None:
        for _ in range(n):
            self.count += 1
            sequence = make_sequence(self.count, (tenant, adapters))
            self.queue.append(sequence)
            key = (tenant, adapters) if self.fair else ("", "")
            if not self.of(key):
                if not any(one.key[0] == key[0] for one in self.waiting):
                    self.queues[key[0]] = Level()
                level = self.queues[key[0]]
                alone = not any(turn.waits for turn in level.turns.values())
                level.place(key[1], level.clock)
                if alone:
                    self.tenants.place(key[0], self.tenants.clock)
            self.waiting.append(Waiting(sequence, key, was_held=key in self.held))

    def expected(self) -> Waiting | None:
        tenant = self.tenants.first()
        if tenant is None:
            return None
        adapters = self.queues[tenant].first()
        assert adapters is not None
        return self.of((tenant, adapters))[0]

    @rule(costs=st.lists(st.integers(1, LARGEST), min_size=1, max_size=12))
    def pop(self, costs: list[int]) -> None:
        for cost in costs:
            self.pop_one(cost)

    def pop_one(self, cost: int) -> None:
        expected = self.expected()
        if expected is None:
            assert self.queue.peek() is None
            return
        key = expected.key
        assert self.queue.peek() is expected.sequence
        assert self.queue.pop(cost) is expected.sequence
        self.largest = max(self.largest, cost)
        self.check_bounds(expected)
        for one in self.waiting:
            one.since_arrival[key] += cost
            if self.of(one.key)[0] is one:
                one.since_head[key] += cost
        self.tenants.charge(key[0], cost)
        self.queues[key[0]].charge(key[1], cost)
        self.forget(expected)
        self.check_shares(key, cost)
        self.pops += 1
        for name in sorted(self.held, key=lambda name: self.limit_of(name)):
            if self.limit_of(name)[0] <= self.pops:
                self.resume(name)

    def limit_of(self, key: Key) -> tuple[int, int]:
        head = self.of(key)[0]
        assert head.limit is not None
        return head.limit, head.sequence.arrival

    def check_bounds(self, one: Waiting) -> None:
        if not self.fair:
            return
        reports = [(one.since_head, 0)]
        if not one.was_held:
            reports.append((one.since_arrival, one.since_arrival[one.key]))
        tenant = one.key[0]
        for report, ahead in reports:
            own = sum(cost for key, cost in report.items() if key[0] == tenant)
            for key, cost in report.items():
                if key[0] == tenant and key != one.key:
                    assert cost <= ahead + 2 * self.largest
            for other in {key[0] for key in report} - {tenant}:
                cost = sum(cost for key, cost in report.items() if key[0] == other)
                assert cost <= own + 2 * self.largest

    def check_shares(self, key: Key, cost: int) -> None:
        """Assert that queues of a tenant, and tenants, that wait throughout are served alike."""
        waiting = {one.key for one in self.waiting} - self.held.keys()
        pairs = [(k, key) for k in waiting if k[0] == key[0] and k != key]
        waits = {key[0] for key in waiting}
        tenants = [((tenant, ""), (key[0], "")) for tenant in waits if tenant != key[0]]
        for pair in pairs + tenants:
            ordered = (min(pair), max(pair))
            least, now, most = self.spreads.get(ordered, (0, 0, 0))
            now += cost if ordered[0] == pair[1] else -cost
            self.spreads[ordered] = min(least, now), now, max(most, now)
        self.drop_spreads()
        for least, _, most in self.spreads.values():
            assert most - least <= 2 * self.largest

    def drop_spreads(self) -> None:
        """Forget pairs of which one does not wait, or is held."""
        waiting = {one.key for one in self.waiting} - self.held.keys()
        present = waiting | {(tenant, "") for tenant, _ in waiting}
        self.spreads = {pair: s for pair, s in self.spreads.items() if present >= set(pair)}

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        one = self.waiting[data.draw(st.integers(0, len(self.waiting) - 1))]
        self.queue.remove(one.sequence)
        if one.key in self.held and self.of(one.key)[0] is one:
            self.resume(one.key)
        self.forget(one)
        self.drop_spreads()

    def forget(self, one: Waiting) -> None:
        self.waiting.remove(one)
        tenant, adapters = one.key
        if not self.of(one.key):
            del self.queues[tenant].turns[adapters]
            if not any(turn.waits for turn in self.queues[tenant].turns.values()):
                self.stop(tenant)

    def stop(self, tenant: str) -> None:
        if any(one.key[0] == tenant for one in self.waiting):
            self.tenants.turns[tenant].waits = False
        else:
            del self.tenants.turns[tenant]

    @rule(event=st.sampled_from("EFG"))
    def hold(self, event: str) -> None:
        one = self.expected()
        if one is None:
            return
        if one.limit is None:
            one.limit = self.pops + self.passes
        assert self.queue.defer(event) is (one.limit > self.pops)
        if one.limit <= self.pops:
            return
        tenant, adapters = one.key
        self.held[one.key] = event
        for behind in self.of(one.key):
            behind.was_held = True
        self.queues[tenant].turns[adapters].waits = False
        if not any(turn.waits for turn in self.queues[tenant].turns.values()):
            self.stop(tenant)
        self.drop_spreads()

    @rule(event=st.sampled_from("EFG"))
    def release(self, event: str) -> None:
        self.queue.resume_deferred(event)
        for key in [key for key, name in self.held.items() if name == event]:
            self.resume(key)

    def resume(self, key: Key) -> None:
        tenant, adapters = key
        del self.held[key]
        head = self.of(key)[0]
        assert head.limit is not None
        assert self.pops <= head.limit
        head.since_head.clear()
        self.queues[tenant].resume(adapters)
        if not self.tenants.turns[tenant].waits:
            self.tenants.resume(tenant)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "queue"):
            return
        self.queue.check_integrity()
        assert len(self.queue) == len(self.waiting)
        assert self.queue.deferred == len(self.held)
        assert {one.sequence for one in self.waiting} == set(self.queue)
        expected = self.expected()
        assert self.queue.peek() is (None if expected is None else expected.sequence)

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        for event in "EFG":
            self.release(event)
        while self.waiting:
            self.pop_one(1)
        assert self.queue.peek() is None
        assert (len(self.queue), self.queue.deferred) == (0, 0)


FairQueueMachine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None
)
TestFairQueue = FairQueueMachine.TestCase


@settings(max_examples=100, deadline=None)
@given(data=st.data(), flows=st.integers(1, 5))
def test_newcomers_never_pass_a_flow_that_waits(data: st.DataObject, flows: int) -> None:
    """However many new flows come, each costing little, one that waits is served in its bound."""
    turns: Turns[Flow] = Turns()
    old = [Flow() for _ in range(flows)]
    for flow in old:
        turns.enter(flow)
    for cost in data.draw(st.lists(st.integers(1, LARGEST), max_size=20)):
        assert turns.first is not None
        turns.charge(turns.first, cost)
    victim = data.draw(st.sampled_from(old))
    served: Counter[Flow] = Counter()
    while turns.first is not victim:
        assert turns.first in old
        cost = data.draw(st.integers(1, LARGEST))
        served[turns.first] += cost
        turns.charge(turns.first, cost)
        turns.enter(Flow())
        turns.check_integrity()
    assert all(cost <= 2 * LARGEST for cost in served.values())


WEIGHTS = st.sampled_from((0.001, 0.1, 1.0, 1.0, 3.0, 10.0, 1000.0))


@settings(max_examples=200, deadline=None)
@given(data=st.data(), weights=st.lists(WEIGHTS, min_size=2, max_size=5))
def test_tokens_follow_weights(data: st.DataObject, weights: list[float]) -> None:
    """Tenants that wait throughout are admitted by their weights, while others come and go."""
    queue = FairQueue(fair=True, max_passes=0)
    served = [0] * len(weights)
    count = 0

    def append(tenant: str, weight: float) -> None:
        nonlocal count
        count += 1
        queue.append(make_sequence(count, (tenant, "x"), weight=weight))

    for number, weight in enumerate(weights * 2):  # one still waits when the other is taken
        append(f"old{number % len(weights)}", weight)
    for _ in range(data.draw(st.integers(1, 60))):
        if data.draw(st.booleans()):
            append(f"new{data.draw(st.integers(0, 3))}", data.draw(WEIGHTS))
        cost = data.draw(st.integers(1, LARGEST))
        tenant = str(queue.pop(cost).request.tenant)
        if tenant.startswith("old"):
            number = int(tenant.removeprefix("old"))
            served[number] += cost
            append(tenant, weights[number])
        for a, b in itertools.combinations(range(len(weights)), 2):
            bound = 2 * LARGEST / min(weights[a], weights[b])
            assert abs(served[a] / weights[a] - served[b] / weights[b]) <= bound * (1 + 1e-6)
        queue.check_integrity()


def test_a_new_weight_counts_for_what_waits() -> None:
    queue = FairQueue(fair=True, max_passes=0)
    for index in range(60):
        queue.append(make_sequence(index, ("ab"[index % 2], "x")))
    queue.append(make_sequence(60, ("a", "x"), weight=3.0))
    admitted = Counter(str(queue.pop(10).request.tenant) for _ in range(40))
    assert 28 <= admitted["a"] <= 32


def test_a_light_tenant_that_comes_again_at_once_gains_nothing() -> None:
    """Sending each sequence when the one before is admitted leads to no more than all at once."""
    queue = FairQueue(fair=True, max_passes=0)
    for index in range(100):
        queue.append(make_sequence(index, ("heavy", "x")))
    queue.append(make_sequence(100, ("light", "x"), weight=0.1))
    light = 0
    for index in range(101, 166):
        if queue.pop(10).request.tenant == "light":
            light += 1
            queue.append(make_sequence(index, ("light", "x"), weight=0.1))
    assert 5 <= light <= 8


def test_what_is_taken_out_of_turn_is_paid_for() -> None:
    queue = FairQueue(fair=True, max_passes=0)
    for index in range(40):
        queue.append(make_sequence(index, ("ab"[index % 2], "x")))
    for _ in range(5):
        queue.pop(10, TenantId("b"))
    assert [queue.pop(10).request.tenant for _ in range(5)] == ["a"] * 5
    assert Counter(queue.pop(10).request.tenant for _ in range(10)) == {"a": 5, "b": 5}
