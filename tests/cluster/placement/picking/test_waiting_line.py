"""The order of those who wait, against a plain model of it."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.domain.ids import TenantId
from cluster.placement.picking.waiting_line import MOST_ENDS, WaitingLine

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
    line.put_back(first)
    assert [line.pop() for _ in range(3)] == ["a1", "b1", "a2"]


def test_turns_go_by_weight() -> None:
    line = WaitingLine[tuple[str, int]]()
    for number in range(40):
        line.append(TenantId("a"), ("a", number), 3.0)
        line.append(TenantId("b"), ("b", number))
    first = Counter(line.pop()[0] for _ in range(40))
    assert first == {"a": 30, "b": 10}
    line.append(TenantId("b"), ("b", 99), 9.0)
    assert Counter(line.pop()[0] for _ in range(12))["b"] >= 8


@pytest.mark.parametrize("weight", [0.001, 0.1])
def test_who_comes_one_by_one_has_no_more_turns_than_its_weight_gives_it(weight: float) -> None:
    line = WaitingLine[tuple[str, int]]()
    for number in range(200):
        line.append(TenantId("a"), ("a", number))
    served = Counter[str]()
    for number in range(200):
        if not line.has_waiters(TenantId("b")):
            line.append(TenantId("b"), ("b", number), weight)
        served[line.pop()[0]] += 1
    assert served["b"] <= 2 + 200 * weight


def test_what_tenants_owe_is_forgotten_once_it_is_due() -> None:
    line = WaitingLine[str]()
    for number in range(5000):
        line.append(TenantId("a"), f"a{number}")
        line.append(TenantId(f"t{number}"), f"t{number}", 0.5)
        line.pop()
        line.pop()
    assert len(line._ends) <= 2 * MOST_ENDS


@given(STEPS)
def test_it_is_a_turn_of_queues(steps: list[tuple[str, str | None, int]]) -> None:
    """Among equal weights the tenant that was served longest ago is next."""
    line, model = WaitingLine[tuple[str | None, int]](), []  # type: ignore[var-annotated]
    first: list[tuple[str | None, int]] = []  # put back; the last one is next
    for step, name, number in steps:
        tenant, waiter = (None if name is None else TenantId(name)), (name, number)
        queue = next((queue for owner, queue in model if owner == tenant), None)
        waits = waiter in first or (queue is not None and waiter in queue)
        if step == "pop" and first:
            assert line.pop() == first.pop()
        elif step == "pop" and model:
            owner, queue = model.pop(0)
            assert line.pop() == queue.pop(0)
            model.append((owner, queue))
        elif step == "pop":
            with pytest.raises(LookupError):
                line.pop()
        elif step == "discard":
            line.discard(tenant, waiter)
            if waiter in first:
                first.remove(waiter)
            elif queue is not None and waits:
                queue.remove(waiter)
        elif step == "put_back" and not waits:
            line.put_back(waiter)
            first.append(waiter)
        elif step == "append" and not waits:
            line.append(tenant, waiter)
            if queue is None:
                queue = []
                model.append((tenant, queue))
            queue.append(waiter)
        model = [(owner, waiters) for owner, waiters in model if waiters]
        assert len(line) == len(first) + sum(len(waiters) for _, waiters in model)
