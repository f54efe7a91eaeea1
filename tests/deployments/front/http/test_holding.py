"""Checks what a client sees while no replica runs, by intent or not."""

import asyncio
import dataclasses

import pytest

from cluster.placement.policy import PickingPolicy
from tests.support.http_front import HttpFront, OpenFront
from tests.support.openai_bodies import CHAT, DONE, chat, events, text_of

HEADER = "x-braid-max-wait"


def order(front: HttpFront, **fields: object) -> None:
    """Let the controller give these orders."""
    cluster = front.cluster
    cluster.give_orders(dataclasses.replace(cluster.orders, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_held_requests_are_answered_by_the_first_replica(
    open_front: OpenFront, stream: bool
) -> None:
    async with open_front(replicas=0) as front:
        asked = [asyncio.create_task(front.post(CHAT, chat(stream=stream))) for _ in range(5)]
        await front.until(lambda: front.cluster.calls == 5)
        front.says(*["Hello"] * 5)
        await front.cluster.add_replica()
        for answer in await asyncio.gather(*asked):
            assert answer.status_code == 200
            if stream:
                *chunks, done = events(answer.text)
                assert (text_of(chunks), done) == ("Hello", DONE)


async def test_the_controller_is_not_called_where_a_replica_runs(front: HttpFront) -> None:
    assert (await front.post(CHAT, chat())).status_code == 200
    assert front.cluster.calls == 0


async def test_a_request_is_held_as_long_as_the_controller_says(open_front: OpenFront) -> None:
    async with open_front(replicas=0) as front:
        order(front, hold_s=120.0, retry_after_s=7.2)
        began = front.clock.monotonic()
        answer = await front.in_time(front.post(CHAT, chat()))
        assert front.clock.monotonic() - began >= 120
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "starting"
        assert answer.headers["retry-after"] == "8"


@pytest.mark.parametrize(
    ("header", "held"), [("0", False), ("19.9", False), ("20", True), ("inf", True), (None, True)]
)
async def test_who_cannot_wait_for_a_start_is_told_at_once(
    open_front: OpenFront, header: str | None, held: bool
) -> None:
    async with open_front(replicas=0) as front:
        order(front, retry_after_s=20.0)
        headers = {} if header is None else {HEADER: header}
        asked = asyncio.create_task(front.post(CHAT, chat(), headers=headers))
        await front.until(lambda: front.cluster.calls or asked.done())
        await asyncio.sleep(0.05)
        assert asked.done() is not held
        assert front.cluster.calls == 1, "what is refused is demand as well"
        if held:
            await front.cluster.add_replica()
        answer = await asked
        assert answer.status_code == (200 if held else 503)
        if not held:
            assert answer.headers["retry-after"] == "20"
            assert answer.json()["error"]["code"] == "starting"


async def test_a_request_with_little_time_is_told_at_once(open_front: OpenFront) -> None:
    async with open_front(replicas=0, front={"request_timeout_s": 19}) as front:
        order(front, retry_after_s=20.0)
        assert (await front.post(CHAT, chat())).json()["error"]["code"] == "starting"


@pytest.mark.parametrize("header", ["soon", "-1", "nan", "", "1 s", "1,5"])
async def test_a_bound_that_is_no_number_is_refused(front: HttpFront, header: str) -> None:
    answer = await front.post(CHAT, chat(), headers={HEADER: header})
    assert answer.status_code == 400
    assert HEADER in answer.json()["error"]["message"]
    assert front.script.submitted == []


async def test_a_bound_changes_nothing_where_a_replica_runs(front: HttpFront) -> None:
    answer = await front.post(CHAT, chat(), headers={HEADER: "0"})
    assert answer.status_code == 200


async def test_a_client_that_leaves_is_held_no_longer(open_front: OpenFront) -> None:
    async with open_front(replicas=0) as front:
        leave = asyncio.Event()
        asked = asyncio.create_task(front.abandoned(CHAT, chat(), leave))
        await front.until(lambda: front.cluster.calls)
        leave.set()
        assert await asked == 499
        await front.cluster.add_replica()
        answer = await front.post(CHAT, chat())
        assert answer.status_code == 200
        assert len(front.script.submitted) == 1


async def test_a_tenant_that_holds_too_much_is_refused_and_others_are_not(
    open_front: OpenFront,
) -> None:
    async with open_front(replicas=0) as front:
        order(front, retry_after_s=7.2, picking=PickingPolicy(max_queued=3))
        asked = [asyncio.create_task(front.post(CHAT, chat())) for _ in range(3)]
        await front.until(lambda: front.cluster.calls == 3)
        refused = await front.post(CHAT, chat())
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert refused.headers["retry-after"] == "8"
        assert refused.headers["x-should-retry"] == "true"
        asked.append(asyncio.create_task(front.post(CHAT, chat(), "globex")))
        await front.until(lambda: front.cluster.calls == 5)
        front.says(*["Hello"] * 5)
        await front.cluster.add_replica()
        answers = await asyncio.gather(*asked)
        assert [answer.status_code for answer in answers] == [200] * 4
        assert (await front.post(CHAT, chat())).status_code == 200


async def test_a_request_of_too_many_sequences_leaves_no_place_taken(
    open_front: OpenFront,
) -> None:
    async with open_front(replicas=0) as front:
        order(front, picking=PickingPolicy(max_queued=3))
        refused = await front.post(CHAT, chat(n=4))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        asked = asyncio.create_task(front.post(CHAT, chat(n=3)))
        await asyncio.sleep(0.05)
        assert not asked.done()
        await front.cluster.add_replica()
        assert (await asked).status_code == 200


async def test_the_last_replica_may_leave_and_another_come(open_front: OpenFront) -> None:
    async with open_front(replicas=1) as front:
        (first,) = front.replicas
        front.says("one", "two")
        assert (await front.post(CHAT, chat())).status_code == 200
        await first.die()
        while (await front.get("/ready", None)).status_code == 200:
            await front.pause()
        asked = asyncio.create_task(front.post(CHAT, chat()))
        await front.until(lambda: front.cluster.calls)
        second = await front.cluster.add_replica()
        assert (await asked).headers["x-braid-replica"] == second.id


async def test_readiness_needs_a_replica_unless_the_policy_lets_all_go(
    open_front: OpenFront,
) -> None:
    async with open_front(replicas=0) as front:
        assert (await front.get("/ready", None)).status_code == 503
        assert (await front.get("/health", None)).status_code == 200
        order(front, zero=True)
        answer = await front.get("/ready", None)
        assert (answer.status_code, answer.json()) == (200, {"status": "ready", "replicas": 0})
        assert (await front.get("/-/healthz", None)).status_code == 200
