"""A front's trace has each sequence that was served, as it was served, and no text."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.simulation.trace import ServedFacts, TraceRequest
from cluster.simulation.traces.trace_file import load_trace
from deployments.front.telemetry import trace_log
from tests.support.http_front import HttpFront, OpenFront
from tests.support.openai_bodies import CHAT, COMPLETIONS, chat, completion
from tests.support.scripted_replica import Speech

SECRET = "words that nobody may read"
PROMPT = "a prompt of more than forty bytes, which are as many tokens"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_log, "FLUSH_S", 0.01)


def logging_to(path: Path) -> dict[str, Any]:
    return {"front": {"trace_log": {"path": path}}}


def served(request: TraceRequest) -> ServedFacts:
    assert request.served is not None
    return request.served


async def test_a_request_is_kept_with_what_was_found_and_measured(
    open_front: OpenFront, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    async with open_front(**logging_to(path)) as front:
        front.says(Speech("Hello", queued_s=0.25))
        front.clock.advance(3)
        body = completion(f"{SECRET} {PROMPT}", model="sql")
        answer = await front.post(COMPLETIONS, body)
        assert answer.status_code == 200
        usage = answer.json()["usage"]
        text = answer.json()["choices"][0]["text"]
    (found,) = load_trace(path)
    assert found.tenant == "acme"
    assert found.adapters[0].startswith("sql@")
    assert found.prompt_tokens == usage["prompt_tokens"]
    assert found.generated_tokens == usage["completion_tokens"]
    assert found.max_tokens == 50
    assert found.deadline_s == pytest.approx(600)
    assert len(found.prefix) == usage["prompt_tokens"] // 16
    facts = served(found)
    assert (facts.replica, facts.tier_found, facts.outcome) == ("r0", "disk", "ok")
    assert facts.queued == 0.25
    assert facts.ttft is not None
    assert 0 <= facts.ttft <= facts.e2e
    content = path.read_text()
    assert SECRET not in content
    assert text not in content
    assert PROMPT not in content


@pytest.mark.parametrize(
    ("state", "tier"),
    [
        (AdapterState.READY, "device"),
        (AdapterState.LOADING, "loading"),
        (AdapterState.FETCHING, "loading"),
        (AdapterState.EVICTING, "disk"),
        (AdapterState.FAILED, "disk"),
    ],
)
async def test_the_tier_is_that_of_the_picked_replica_at_the_pick(
    open_front: OpenFront, tmp_path: Path, state: AdapterState, tier: str
) -> None:
    path = tmp_path / "trace.jsonl"
    async with open_front(**logging_to(path)) as front:
        first = await front.post(COMPLETIONS, completion(model="sql"))
        digest = first.headers["x-braid-adapters"].split("@")[1].split(";")[0]
        (replica,) = front.replicas
        replica.resident = (ResidentAdapter(digest, "sql", state, 10, 8, 0),)
        await told(front, digest, state)
        assert (await front.post(COMPLETIONS, completion(model="sql"))).status_code == 200
        assert (await front.post(COMPLETIONS, completion())).status_code == 200
    assert [served(one).tier_found for one in load_trace(path)] == ["disk", tier, "base"]


async def told(front: HttpFront, digest: str, state: AdapterState) -> None:
    """Wait until the front knows where an adapter is."""
    for _ in range(2000):
        report = (await front.get("/admin/v1/residency", "root")).json()["replicas"]
        held = [one for replica in report for one in replica["resident"]]
        if any(one["digest"] == digest and one["state"] == state for one in held):
            return
        front.clock.advance(1)
        await asyncio.sleep(0.002)
    raise AssertionError(f"{digest} is not known to be {state}")


async def test_each_sequence_has_a_line(open_front: OpenFront, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    async with open_front(**logging_to(path)) as front:
        front.says("a", "bb", "ccc", "dddd")
        body = completion(["one", "three"], n=2)
        assert (await front.post(COMPLETIONS, body)).status_code == 200
    found = load_trace(path)
    assert sorted(one.generated_tokens for one in found) == [2, 3, 4, 5]  # and the end of text
    assert sorted(one.prompt_tokens for one in found) == [3, 3, 5, 5]
    assert {one.at for one in found} == {found[0].at}


async def test_failures_and_clients_that_leave_are_kept_as_such(
    open_front: OpenFront, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    async with open_front(**logging_to(path)) as front:
        front.says(Speech("Hello", fail_after=2))
        assert (await front.post(COMPLETIONS, completion())).status_code == 500
        front.says(Speech("Hello", hold_after=1))
        leave = asyncio.Event()
        asked = asyncio.create_task(front.abandoned(CHAT, chat(), leave))
        await front.until(lambda: len(front.script.submitted) == 2)
        leave.set()
        assert await asked == 499
        await front.until(lambda: front.script.cancelled)
    failed, left = load_trace(path)
    assert served(failed).outcome == "engine_error"
    assert failed.generated_tokens == 2
    assert served(failed).ttft is not None
    assert served(left).outcome == "cancelled"


async def test_requests_that_are_refused_before_they_are_decided_leave_no_line(
    open_front: OpenFront, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    async with open_front(**logging_to(path)) as front:
        assert (await front.post(COMPLETIONS, completion(model="nothing"))).status_code == 404
        assert (await front.post(COMPLETIONS, completion(), "nobody")).status_code == 401
        assert (await front.post(COMPLETIONS, completion())).status_code == 200
    assert [served(one).outcome for one in load_trace(path)] == ["ok"]


async def test_a_request_without_a_replica_is_kept(open_front: OpenFront, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    async with open_front(replicas=0, **logging_to(path)) as front:
        answer = await front.in_time(front.post(COMPLETIONS, completion()))
        assert answer.status_code == 503
    (found,) = load_trace(path)
    facts = served(found)
    assert (facts.replica, facts.tier_found, facts.ttft) == ("", "", None)
    assert facts.outcome == "starting"
    assert facts.e2e >= 30


async def test_equal_beginnings_are_seen_within_a_tenant_alone(
    open_front: OpenFront, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    async with open_front(**logging_to(path)) as front:
        for prompt, key in ((PROMPT, "acme"), (PROMPT[:32] + "x" * 16, "acme"), (PROMPT, "globex")):
            assert (await front.post(COMPLETIONS, completion(prompt), key)).status_code == 200
            front.clock.advance(1)
    first, second, other = (one.prefix for one in load_trace(path))
    assert first[:2] == second[:2]
    assert first[2] != second[2]
    assert not set(first) & set(other)


async def test_lines_are_counted_and_a_broken_log_fails_no_request(
    open_front: OpenFront, tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    async with open_front(**logging_to(blocked / "trace.jsonl")) as front:
        assert (await front.post(COMPLETIONS, completion())).status_code == 200
        name = 'braid_trace_log_lines_total{result="lost"}'
        while (await front.figures()).get(name) != 1:  # noqa: ASYNC110 - a thread counts
            await asyncio.sleep(0.002)
    (line,) = front.logged("trace_log.failed")
    assert "blocked" in line["path"]


async def test_without_a_path_nothing_is_written(open_front: OpenFront, tmp_path: Path) -> None:
    async with open_front() as front:
        assert (await front.post(COMPLETIONS, completion())).status_code == 200
    assert not {name for name in os.listdir(tmp_path) if "jsonl" in name}


async def test_some_picks_are_explained(open_front: OpenFront, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    async with open_front(**logging_to(path)) as front:
        front.says("a")
        for _ in range(40):
            await front.post(COMPLETIONS, completion("x", n=16))
    found = load_trace(path)
    explained = [one for one in found if served(one).pick is not None]
    assert len(found) == 640
    assert 0 < len(explained) < 40  # 6.4 on average
    pick = served(explained[0]).pick
    assert pick is not None
    assert (pick["chosen"], pick["replicas"]) == (served(explained[0]).replica, 1)
