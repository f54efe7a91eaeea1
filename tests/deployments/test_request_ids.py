"""A request's id is in the lines of every part that had to do with it."""

import asyncio
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from deployments.front.telemetry.request_log import RequestRecord, begin_record
from tests.support.small_cluster import deltas_of, make_base, small_cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

ID = "the-clients-own-id"
LONG = {"prompt": "Tell me of apples", "max_tokens": 90, "ignore_eos": True}

Lines = list[MutableMapping[str, Any]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    make_base(folder)
    return folder


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Lines as they would be written; the record is of one request."""
    with structlog.testing.capture_logs() as captured:
        yield captured


def of_request(lines: Lines, event: str) -> Lines:
    return [line for line in lines if line["event"] == event and line.get("request") == ID]


async def test_the_answer_line_tells_the_generation(base: Path, lines: Lines) -> None:
    record = RequestRecord(id=ID)
    begin_record(record)
    async with small_cluster(base) as cluster:
        record.started = cluster.service.clock.monotonic()
        running = await cluster.ask(**LONG, n=2, stop=None)
        record.status = 200
        record.write(cluster.service.clock.monotonic())
    (line,) = of_request(lines, "request")
    prompt = len(running.choices[0].spec.prompt_token_ids)
    assert (line["choices"], line["prompt_tokens"]) == (2, prompt)
    assert line["completion_tokens"] == 180
    assert line["decision"] == running.decided.decision.id
    assert line["router"] == running.decided.decision.router
    assert [term["adapter"] for term in line["mixture"]] == ["apples"]
    assert line["replica"] == "r0"
    assert 0 <= line["queue_ms"] <= line["ttft_ms"] <= line["total_ms"]
    assert line["outcome"] == "completed"


async def test_a_lost_replica_is_told_by_the_front(base: Path, lines: Lines) -> None:
    begin_record(RequestRecord(id=ID))
    async with small_cluster(base, replicas=2) as cluster:
        running = await cluster.begin(**LONG)
        deltas = deltas_of(running)
        await anext(deltas)
        first = cluster.open[0]
        first._end()
        async for _ in deltas:
            pass
        cluster.service.finish(running, None)
        first._closed = False
    (line,) = of_request(lines, "front.failover")
    assert line["lost"] == "r0"
    assert running.choices[0].failovers == 1


async def test_a_client_that_goes_is_told_by_the_replica(base: Path, lines: Lines) -> None:
    begin_record(RequestRecord(id=ID))
    async with small_cluster(base) as cluster:
        running = await cluster.begin(**LONG)
        deltas = deltas_of(running)
        await anext(deltas)
        await deltas.aclose()
        cluster.service.finish(running, GeneratorExit())
        async with asyncio.timeout(20):
            while not of_request(lines, "replica.request_ended"):  # noqa: ASYNC110 - a log calls nobody
                await asyncio.sleep(0.005)
    (line,) = of_request(lines, "replica.request_ended")
    assert line["reason"] == "cancelled"


async def test_a_front_that_vanishes_is_told_by_the_replica(base: Path, lines: Lines) -> None:
    begin_record(RequestRecord(id=ID))
    async with small_cluster(base) as cluster:
        running = await cluster.begin(**LONG)
        deltas = deltas_of(running)
        await anext(deltas)
        replica = cluster.replicas[0]
        replica.disconnected(frozenset(replica.book._live))
        assert of_request(lines, "replica.request_abandoned")
        await deltas.aclose()


async def test_a_failed_step_is_told_by_the_engine(base: Path, lines: Lines) -> None:
    begin_record(RequestRecord(id=ID))
    async with small_cluster(base) as cluster:
        running = await cluster.begin(**LONG)
        deltas = deltas_of(running)
        await anext(deltas)
        runner = cluster.replicas[0].built.engine._runner

        def broken(*_: object) -> None:
            raise RuntimeError("a kernel failed")

        runner.execute = broken
        with pytest.raises(Exception, match="the engine step failed") as failed:
            async for _ in deltas:
                pass
        cluster.service.finish(running, failed.value)
    (line,) = of_request(lines, "engine.request_failed")
    assert line["code"] == "engine_error"
    assert of_request(lines, "replica.request_ended")
    assert any(line["event"] == "engine step failed" for line in lines)
