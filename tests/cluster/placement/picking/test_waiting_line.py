"""The order of those who wait, against a plain model of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.domain.ids import TenantId
from cluster.placement.picking.waiting_line import WaitingLine

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "put_back", "pop", "discard"]),
        st.sampled_from(["a", "b", "c", None]),
        st.integers(0, 9),
    )
)


def drain(line: WaitingLine[int]) -> list[int]:
    return [line.pop() for _ in range(len(line))]


def test_tenants_take_turns_and_the_oldest_of_each_is_first() -> None:
    line = WaitingLine[str]()
    for name in ("a1", "a2", "a3", "b1", "c1", "b2"):
        line.append(TenantId(name[0]), name)
    assert [line.pop() for _ in range(6)] == ["a1", "b1", "c1", "a2", "b2", "a3"]
    with pytest.raises(LookupError):
        line.pop()


def test_one_that_is_put_back_is_the_next() -> None:
    line = WaitingLine[str]()
    for name in ("a1", "a2", "b1"):
        line.append(TenantId(name[0]), name)
    first = line.pop()
    line.put_back(TenantId("a"), first)
    assert [line.pop() for _ in range(3)] == ["a1", "b1", "a2"]


@given(STEPS)
def test_it_is_a_turn_of_queues(steps: list[tuple[str, str | None, int]]) -> None:
    line, model = WaitingLine[tuple[str | None, int]](), []  # type: ignore[var-annotated]
    for step, name, number in steps:
        tenant, waiter = (None if name is None else TenantId(name)), (name, number)
        queue = next((queue for owner, queue in model if owner == tenant), None)
        if step == "pop":
            if not model:
                with pytest.raises(LookupError):
                    line.pop()
                continue
            owner, queue = model.pop(0)
            assert line.pop() == queue.pop(0)
            model += [(owner, queue)] if queue else []
            continue
        if step == "discard":
            line.discard(tenant, waiter)
            if queue is not None and waiter in queue:
                queue.remove(waiter)
        elif queue is None or waiter not in queue:
            getattr(line, step)(tenant, waiter)
            if queue is None:
                queue = []
                model.append((tenant, queue))
            queue.insert(0 if step == "put_back" else len(queue), waiter)
            if step == "put_back":
                model.remove((tenant, queue))
                model.insert(0, (tenant, queue))
        model = [(owner, waiters) for owner, waiters in model if waiters]
        assert len(line) == sum(len(waiters) for _, waiters in model)
