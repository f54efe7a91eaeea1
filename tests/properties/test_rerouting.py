"""Sequences that change their adapters, over a pool that is too small for them.

Each token must be computed with what its span says, whatever is preempted, found in the prefix
cache, or handed back because adapters had left; and a block is shared only where everything before
its end was computed with the same.
"""

import dataclasses
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import EngineConfig
from cluster.domain.ids import RequestId
from cluster.domain.request import FinishReason, SamplingParams
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.scheduler import Scheduler
from cluster.engine.sequence import EngineSequence
from cluster.engine.steps import StepPlan
from tests.support.engines import make_request
from tests.support.kv_model import (
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


@dataclass(frozen=True)
class Change:
    when: int  # asked for once so many tokens of the completion are there
    namespace: str
    lead: int  # tokens from then on until it may begin


@dataclass(frozen=True)
class Talk:
    prompt: int
    max_tokens: int
    namespace: str
    changes: tuple[Change, ...]
    lets_go: bool
    recalled: int | None  # tokens of the completion until its owner wants it back


NAMESPACES = st.sampled_from("xyz")
TALKS = st.builds(
    Talk,
    prompt=st.integers(1, 4),
    max_tokens=st.integers(6, 24),
    namespace=st.sampled_from("xxy"),
    changes=st.lists(
        st.builds(
            Change,
            when=st.sampled_from((1, 2, 1, 3, 5, 8, 12)),
            namespace=NAMESPACES,
            lead=st.sampled_from((0, 1, 4)),
        ),
        min_size=1,
        max_size=4,
    ).map(lambda changes: tuple(sorted(changes, key=lambda change: change.when))),
    lets_go=st.sampled_from((True, True, False)),
    recalled=st.sampled_from((None, None, 0, 2)),
)


class House:
    """A scheduler whose runner writes names into blocks."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.pool = BlockPool(config.usual_kv_blocks, config.block_size)
        self.scheduler = Scheduler(config, self.pool, ManualClock())
        self.memory: dict[tuple[int, int], Entry] = {}
        self.ended: dict[RequestId, EngineSequence] = {}
        self.sequences: dict[RequestId, EngineSequence] = {}
        self.returned = 0

    def add(self, sequence: EngineSequence) -> None:
        self.sequences[sequence.request_id] = sequence
        self.scheduler.add_sequence(sequence)

    def step(self) -> bool:
        plan = self.scheduler.schedule()
        for sequence in self.scheduler.take_returned():
            self.come_again(sequence)
        if plan is None:
            return bool(self.scheduler.sequences)
        self.scheduler.check_integrity()
        for sequence in self.scheduler.commit(plan, self.compute(plan)):
            self.ended[sequence.request_id] = sequence
        self.scheduler.check_integrity()
        return True

    def compute(self, plan: StepPlan) -> dict[RequestId, int]:
        size, sampled = self.pool.block_size, {}
        for item in plan.scheduled:
            sequence, path = item.sequence, path_of(item.sequence)
            held = {slot for kept in sequence.spans[sequence.first_held :] for slot in kept.slots}
            needed = {
                slot
                for position in range(item.start, item.end)
                for slot, _ in sequence.adapters_at(position)
            }
            assert needed <= held
            for position in range(item.end):
                entry = entry_of(path, sequence.token_ids[: position + 1])
                place = sequence.block_table[position // size], position % size
                if position < item.start:
                    assert self.memory[place] == entry
                self.memory[place] = entry
            if item.samples:
                sampled[sequence.request_id] = next_token(entry)
        return sampled

    def come_again(self, sequence: EngineSequence) -> None:
        assert sequence.is_recalled or not sequence.is_recomputable
        assert sequence.block_table == []
        self.returned += 1
        request = dataclasses.replace(
            sequence.request, resumed_token_ids=tuple(sequence.generated_token_ids)
        )
        self.add(make_sequence(request, sequence.namespace, sequence.spans[1:]))


def make_sequence(request, namespace, spans=()):
    return EngineSequence.create(
        request,
        namespace=namespace,
        adapters=mixture(namespace),
        stop_token_ids=frozenset({STOP}),
        max_model_len=40,
        spans=spans,
    )


@settings(max_examples=150, deadline=None)
@given(
    talks=st.lists(TALKS, min_size=3, max_size=8),
    size=st.sampled_from((2, 4, 3, 1)),
    room=st.integers(0, 4),
    batch=st.sampled_from((4, 3, 6)),
    prefix_cache=st.booleans(),
)
def test_each_token_is_computed_with_its_span(talks, size, room, batch, prefix_cache) -> None:
    longest = max(talk.prompt + talk.max_tokens for talk in talks)
    house = House(
        EngineConfig(
            max_model_len=40,
            block_size=size,
            kv_blocks=-(-longest // size) + room,
            max_batch_size=batch,
            max_batch_tokens=16,
            prefix_cache=prefix_cache,
        )
    )
    for number, talk in enumerate(talks):
        sampling = SamplingParams(max_tokens=talk.max_tokens)
        request = make_request(f"r{number}", ([1, 2, 3] * 4)[: talk.prompt], sampling)
        house.add(make_sequence(request, talk.namespace))
    asked = dict.fromkeys(house.sequences, 0)
    steps = 0
    while house.step():
        steps += 1
        assert steps < 3000, "it does not come to an end"
        for (name, sequence), talk in zip(list(house.sequences.items()), talks, strict=True):
            if sequence.is_finished:
                continue
            if talk.recalled is not None and sequence.num_generated >= talk.recalled:
                house.scheduler.recall(name)
            begun = sequence.spans[sequence.span]
            if talk.lets_go and begun.start and sequence.num_computed > begun.start:
                assert house.scheduler.release_before(name, begun.start - sequence.prompt_len)
            due = talk.changes[asked[name] :]
            if not due or due[0].when > sequence.num_generated:
                continue
            if sequence.spans[-1].start < sequence.num_tokens:
                after = sequence.num_generated + due[0].lead
                start = house.scheduler.reroute(
                    name, due[0].namespace, mixture(due[0].namespace), after
                )
                assert start == after
                asked[name] += 1
    assert len(house.ended) == len(talks)
    for sequence in house.ended.values():
        prompt = sequence.token_ids[: sequence.prompt_len]
        assert sequence.token_ids == alone(path_of(sequence), prompt, sequence.max_len)
        assert sequence.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    assert used_blocks(house.pool) == 0
