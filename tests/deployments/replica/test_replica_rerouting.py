"""Checks requests that continue with other adapters: leases, loads, refusals, computing again."""

import asyncio
import itertools

import pytest

from cluster.domain.ids import RequestId
from cluster.domain.request import FinishReason
from cluster.errors import ReplicaLost
from deployments.link.link_messages import SpanStart
from tests.support.request_rig import Rig

PROMPT = 3  # tokens of every prompt


def adapters_by_token(rig: Rig, name: str) -> list[str]:
    """Return the adapters of each token, the same whenever it was computed."""
    found: dict[int, str] = {}
    for token, names in rig.runner.computed[name]:
        assert found.setdefault(token, names) == names, f"token {token} with {names}"
    return [names for _, names in sorted(found.items())]


def runs(names: list[str]) -> list[tuple[str, int]]:
    return [(key, len(list(group))) for key, group in itertools.groupby(names)]


async def ready(rig: Rig, name: str) -> None:
    """Wait until the engine has been notified of its re-route."""
    await rig.until(lambda: rig.book._live[RequestId(name)].coming.task.done())


async def test_it_goes_on_with_the_new_adapters_at_its_token(make_rig) -> None:
    rig = make_rig()
    name = rig.submit("a", max_tokens=12)
    await rig.step(name, 2)
    rig.reroute(name, "b", after=5)
    await ready(rig, name)
    rig.runner.gate.release(100)
    assert (await rig.end(name)).finish_reason is FinishReason.LENGTH
    assert runs(adapters_by_token(rig, name)) == [("a", PROMPT + 5), ("b", 6)]
    assert rig.starts(name) == [5]
    assert rig.refusals(name) == []
    assert rig.tokens(name) == 12
    assert rig.book.rerouting.counters.reroutes_applied == 1


async def test_decoding_goes_on_while_the_new_adapters_are_loaded(make_rig) -> None:
    rig = make_rig()
    rig.held.add("b")
    name = rig.submit("a", max_tokens=12)
    await rig.step(name, 1)
    rig.reroute(name, "b", after=2)
    await rig.step(name, 6)
    assert rig.starts(name) == []
    rig.may_load.set()
    await ready(rig, name)
    rig.runner.gate.release(100)
    await rig.end(name)
    (start,) = rig.starts(name)
    assert start in (6, 7)  # a step was under way
    assert runs(adapters_by_token(rig, name)) == [("a", PROMPT + start), ("b", 11 - start)]


async def test_old_adapters_are_held_until_the_new_ones_are_used(make_rig) -> None:
    rig = make_rig(slots=2)
    name = rig.submit("a", max_tokens=12)
    await rig.step(name, 1)
    rig.reroute(name, "b", after=4)
    await ready(rig, name)
    assert {r.digest: r.leases for r in rig.manager.resident()} == {"a": 1, "b": 1}
    await rig.step(name, 4)
    assert {r.digest: r.leases for r in rig.manager.resident()} == {"a": 1, "b": 1}
    await rig.step(name, 6)
    assert {r.digest: r.leases for r in rig.manager.resident()} == {"a": 0, "b": 1}
    other = rig.submit("c")  # finds the slot of "a"
    await rig.until(lambda: rig.in_engine() == 2)
    rig.reroute(name, "a", after=0)  # no slot: both are in use
    await rig.step(name, 8)
    assert rig.starts(name) == [4]
    rig.runner.gate.release(100)
    await rig.end(other)
    await rig.end(name)


async def test_one_re_route_after_the_other(make_rig) -> None:
    rig = make_rig(slots=4)
    name = rig.submit("a", max_tokens=16)
    await rig.step(name, 1)
    plan = [("b", 3), ("ab", 6), ("", 9), ("c", 12)]
    for adapters, after in plan:
        rig.reroute(name, adapters, after)
        rig.reroute(name, "d", after)  # too early
        await ready(rig, name)
        await rig.step(name, after + 2)
    rig.runner.gate.release(100)
    await rig.end(name)
    assert rig.starts(name) == [3, 6, 9, 12]
    assert len(rig.refusals(name)) == 4
    expected = [("a", PROMPT + 3), ("b", 3), ("ab", 3), ("", 3), ("c", 3)]
    assert runs(adapters_by_token(rig, name)) == expected


@pytest.mark.parametrize(
    ("adapters", "tenant", "words"),
    [("x", "t", "x"), ("b", "stranger", "another tenant"), ("abc", "t", "fit|slots|room")],
    ids=["unknown adapter", "another tenant's", "too many"],
)
async def test_a_re_route_that_fails_keeps_the_old_decision(
    make_rig, adapters: str, tenant: str, words: str
) -> None:
    rig = make_rig(timeout=0.2)
    name = rig.submit("a", max_tokens=10)
    await rig.step(name, 2)
    rig.reroute(name, adapters, after=4, tenant=tenant)
    await rig.until(lambda: rig.refusals(name))
    rig.reroute(name, "b", after=6)  # the next one has its chance
    await ready(rig, name)
    rig.runner.gate.release(100)
    assert (await rig.end(name)).finish_reason is FinishReason.LENGTH
    assert rig.tokens(name) == 10
    assert runs(adapters_by_token(rig, name)) == [("a", PROMPT + 6), ("b", 3)]
    assert rig.book.rerouting.counters.reroutes_refused == 1


@pytest.mark.parametrize("when", ["loading", "told", "begun"])
async def test_a_cancelled_request_holds_nothing(make_rig, when: str) -> None:
    rig = make_rig()
    if when == "loading":
        rig.held.add("b")
    name = rig.submit("a", max_tokens=12)
    await rig.step(name, 1)
    rig.reroute(name, "b", after=3)
    if when != "loading":
        await ready(rig, name)
    if when == "begun":
        await rig.step(name, 5)
    rig.book.cancel(RequestId(name))
    rig.runner.gate.release(100)
    assert (await rig.end(name)).finish_reason is FinishReason.CANCELLED
    rig.may_load.set()
    await rig.until(lambda: rig.manager.leases == 0)


async def test_a_request_that_ends_first_was_not_re_routed(make_rig) -> None:
    rig = make_rig()
    name = rig.submit("a", max_tokens=4)
    await rig.step(name, 1)
    rig.reroute(name, "b", after=50)
    await ready(rig, name)
    rig.runner.gate.release(100)
    await rig.end(name)
    assert rig.starts(name) == []
    rig.reroute(name, "b")  # unknown by now


SPANS = (SpanStart(2, b"t:b"), SpanStart(5, b"t:"))


async def test_elsewhere_its_spans_are_computed_as_they_were(make_rig) -> None:
    rig = make_rig(slots=3)
    name = rig.submit("a", max_tokens=14, resumed=range(100, 107), spans=SPANS)
    rig.reroute(name, "c", after=9)  # what the front had not yet heard of
    rig.runner.gate.release(2)  # all that there was, and a token
    await rig.until(lambda: rig.tokens(name) == 2)
    await ready(rig, name)
    rig.runner.gate.release(100)
    assert (await rig.end(name)).finish_reason is FinishReason.LENGTH
    assert rig.tokens(name) == 14 - 7
    (start,) = rig.starts(name)
    expected = [("a", PROMPT + 2), ("b", 3), ("", start - 5), ("c", 13 - start)]
    assert runs(adapters_by_token(rig, name)) == expected
    assert rig.book.counters.requests_arrived == 1


async def test_where_not_all_fit_the_newest_adapters_compute_everything(make_rig) -> None:
    rig = make_rig(slots=1, timeout=0.2)
    spans = (SpanStart(2, b"t:b"),)
    name = rig.submit("a", max_tokens=8, resumed=(100, 101, 102, 103), spans=spans)
    rig.runner.gate.release(100)
    assert (await rig.end(name)).finish_reason is FinishReason.LENGTH
    assert runs(adapters_by_token(rig, name)) == [("b", PROMPT + 7)]
    assert rig.book.rerouting.counters.replays_reduced == 1


async def test_where_earlier_adapters_are_gone_the_newest_compute_everything(make_rig) -> None:
    rig = make_rig()
    spans = (SpanStart(2, b"t:b"),)
    name = rig.submit("x", max_tokens=8, resumed=(100, 101, 102, 103), spans=spans)
    rig.runner.gate.release(100)
    assert (await rig.end(name)).finish_reason is FinishReason.LENGTH
    assert runs(adapters_by_token(rig, name)) == [("b", PROMPT + 7)]


async def test_a_preempted_request_gets_its_earlier_adapters_back(make_rig) -> None:
    """The request has released "a", whose slot "c" took meanwhile."""
    rig = make_rig(slots=3, batch=2, kv_blocks=8, prefix_cache=False)
    old = rig.submit("c", max_tokens=26)
    await rig.step(old, 1)
    name = rig.submit("a", max_tokens=18)
    await rig.step(name, 1)
    rig.reroute(name, "b", after=3)
    await ready(rig, name)
    await rig.step(name, 5)
    assert {r.digest: r.leases for r in rig.manager.resident()} == {"c": 1, "a": 0, "b": 1}
    third = rig.submit("d", max_tokens=1)  # evicts "a"
    await rig.until(lambda: rig.in_engine() == 3)
    rig.reroute(name, "c", after=30)  # still to begin when it is preempted
    await ready(rig, name)
    rig.runner.gate.release(1000)
    for one in (old, third, name):
        assert (await rig.end(one)).finish_reason is FinishReason.LENGTH
    assert rig.engine.stats().counters.returned >= 1
    assert rig.tokens(name) == 18
    tokens = [token for chunk in rig.chunks[name] for token in chunk.token_ids]
    assert tokens == [100 + n for n in range(18)]
    assert rig.starts(name) == [3]
    assert runs(adapters_by_token(rig, name)) == [("a", PROMPT + 3), ("b", 14)]
    assert rig.chunks[name][-1].usage.completion_tokens == 18


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
async def test_a_request_that_is_handed_back_can_be_cancelled(make_rig, turns: int) -> None:
    rig = make_rig(slots=3, batch=2, kv_blocks=8, prefix_cache=False)
    old = rig.submit("c", max_tokens=26)
    await rig.step(old, 1)
    name = rig.submit("a", max_tokens=18)
    await rig.step(name, 1)
    rig.reroute(name, "b", after=3)
    await ready(rig, name)
    await rig.step(name, 5)
    rig.runner.gate.release(1000)
    await rig.until(lambda: rig.engine.stats().counters.returned)
    for _ in range(turns):
        await asyncio.sleep(0)
    rig.book.cancel(RequestId(name))
    assert (await rig.end(old)).finish_reason is FinishReason.LENGTH
    end = await rig.end(name)
    assert end.finish_reason in (FinishReason.CANCELLED, FinishReason.LENGTH)


async def test_what_cannot_go_on_here_is_for_another_replica(make_rig) -> None:
    rig = make_rig(slots=3, batch=2, kv_blocks=8, prefix_cache=False)
    old = rig.submit("c", max_tokens=26)
    await rig.step(old, 1)
    name = rig.submit("a", max_tokens=18)
    await rig.step(name, 1)
    rig.reroute(name, "b", after=3)
    await ready(rig, name)
    await rig.step(name, 5)

    async def gone(digests):
        raise ReplicaLost("the registry has forgotten it")

    rig.book._leases._sync_adapters = gone
    rig.runner.gate.release(1000)
    end = await rig.end(name)
    assert (end.finish_reason, end.error_code) == (FinishReason.ERROR, ReplicaLost.code)
    await rig.end(old)
