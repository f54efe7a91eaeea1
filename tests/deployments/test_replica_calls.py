"""Checks that a silent replica does not hide another's answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from cluster.adapters.registry.records import AddOutcome, ReplicaAnswer
from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.errors import ReplicaLost, Starting
from deployments.front.admin.broadcast import ReplicaBroadcast
from deployments.replica_calls import ask_replicas, integrity_answer

A, B = ReplicaId("a"), ReplicaId("b")
Call = Callable[[], Awaitable[Any]]


class FakeResponse:
    """Answers a broadcast as Serve does: one result for each replica, later."""

    def __init__(self, calls: list[Call] | Exception) -> None:
        self._calls = calls

    async def _fetch_replica_results_async(self) -> list["FakeResult"]:
        if isinstance(self._calls, Exception):
            raise self._calls
        return [FakeResult(call) for call in self._calls]


class FakeResult:
    def __init__(self, call: Call) -> None:
        self._call = call

    async def get_async(self) -> Any:
        return await self._call()


class FakeHandle:
    """Stands in for the handle of replicas that do as the test says."""

    def __init__(self, *calls: Call, unavailable: Exception | None = None) -> None:
        self._response = FakeResponse(unavailable or list(calls))
        self.asked: list[tuple[Any, ...]] = []

    def broadcast(self, *call: Any) -> FakeResponse:
        self.asked.append(call)
        return self._response


def handle(fake: FakeHandle) -> DeploymentHandle[Any]:
    return cast("DeploymentHandle[Any]", fake)


async def at_hand() -> None:
    """Wait for nothing: replicas run."""


async def silent() -> None:
    await asyncio.Event().wait()


async def broken() -> None:
    raise RuntimeError("died")


def saying(answer: Any) -> Call:
    async def call() -> Any:
        return answer

    return call


async def test_answers_stay_when_one_is_silent_and_one_fails() -> None:
    fake = FakeHandle(saying("one"), silent, broken, saying("two"))
    first, late, failed, last = await ask_replicas(handle(fake), "do", 1, 2, timeout_s=0.05)
    assert (first, last) == ("one", "two")
    assert isinstance(late, TimeoutError)
    assert isinstance(failed, RuntimeError)
    assert fake.asked == [("do", 1, 2)]


async def test_nobody_to_ask_is_an_error() -> None:
    fake = FakeHandle(unavailable=DeploymentUnavailableError("Replica"))  # type: ignore[arg-type]
    with pytest.raises(ReplicaLost, match="no replica can be asked to describe"):
        await ask_replicas(handle(fake), "describe", timeout_s=1.0)


async def test_leaving_ends_the_calls() -> None:
    ended = asyncio.Event()

    async def waiting() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(ask_replicas(handle(FakeHandle(waiting)), "do", timeout_s=60))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_integrity_names_those_that_did_not_answer() -> None:
    fake = FakeHandle(saying((A, None)), silent)
    answers = await ask_replicas(handle(fake), "check_integrity", timeout_s=0.05)
    assert integrity_answer(answers, [A, B]) == {
        "replicas": {"a": None},
        "silent": ["b"],
        "failures": ["TimeoutError()"],
    }


def test_integrity_says_what_is_wrong() -> None:
    assert integrity_answer([(A, "1 block, expected 2"), (B, None)], [B]) == {
        "replicas": {"a": "1 block, expected 2", "b": None},
        "silent": [],
        "failures": [],
    }


def test_integrity_without_any_answer_still_has_replicas() -> None:
    answer = integrity_answer([ReplicaLost("nobody")], [A, B])
    assert (answer["replicas"], answer["silent"]) == ({}, ["a", "b"])
    assert len(answer["failures"]) == 1


async def test_a_silent_replica_is_one_answer_of_an_addition() -> None:
    loaded = ReplicaAnswer("a", AddOutcome.LOADED)
    cluster = ReplicaBroadcast(handle(FakeHandle(saying(loaded), silent)), at_hand)
    first, second = await cluster.prepare_adapter(AdapterDigest("sha256:" + "0" * 64), 0.05)
    assert first == loaded
    assert second.outcome is AddOutcome.SILENT


async def test_a_replica_that_has_died_is_none_of_those_asked() -> None:
    async def dead() -> None:
        raise ActorDiedError

    loaded = ReplicaAnswer("a", AddOutcome.LOADED)
    cluster = ReplicaBroadcast(handle(FakeHandle(dead, saying(loaded), dead)), at_hand)
    assert await cluster.prepare_adapter(AdapterDigest("0" * 64), 0.05) == (loaded,)


async def test_questions_wait_for_the_first_replica() -> None:
    loaded = ReplicaAnswer(A, AddOutcome.LOADED)
    fake, there = FakeHandle(saying(loaded)), asyncio.Event()

    async def wait() -> None:
        await there.wait()

    asked = asyncio.create_task(
        ReplicaBroadcast(handle(fake), wait).prepare_adapter(AdapterDigest("d"), 1.0)
    )
    await asyncio.sleep(0.01)
    assert fake.asked == []
    there.set()
    assert await asked == (loaded,)


async def test_no_first_replica_in_time_is_told_to_whoever_asks() -> None:
    async def fail() -> None:
        raise Starting("none came", retry_after_s=9)

    with pytest.raises(Starting, match="none came"):
        await ReplicaBroadcast(handle(FakeHandle()), fail).base()
