"""Health, readiness, version, the OpenAPI document and metrics."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.http_front import HttpFront, OpenFront
from tests.support.openai_bodies import CHAT, chat


async def test_a_front_is_healthy_without_a_replica(open_front: OpenFront) -> None:
    async with open_front(replicas=0) as front:
        assert (await front.get("/health", None)).json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/ready", "/-/healthz"])
async def test_a_front_is_ready_with_a_replica(open_front: OpenFront, path: str) -> None:
    async with open_front(replicas=0) as front:
        answer = await front.get(path, None)
        assert (answer.status_code, answer.json()) == (503, {"status": "no replica yet"})
        replica = await front.cluster.add_replica()
        while answer.status_code != 200:
            await asyncio.sleep(0.001)
            answer = await front.get(path, None)
        assert answer.json() == {"status": "ready", "replicas": 1}
        await replica.die()
        while answer.status_code != 503:
            await asyncio.sleep(0.001)
            answer = await front.get(path, None)


async def test_both_readiness_paths_answer_alike(front: HttpFront) -> None:
    first = await front.get("/ready", None)
    second = await front.get("/-/healthz", None)
    assert first.json() == second.json() == {"status": "ready", "replicas": 1}


async def test_the_version_is_told(front: HttpFront) -> None:
    assert (await front.get("/version", None)).json() == {"version": "1.2.3"}


async def test_the_openapi_document_has_every_route(front: HttpFront) -> None:
    document = (await front.get("/openapi.json", None)).json()
    described = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    }
    assert described == front.routes
    assert document["info"]["version"] == "1.2.3"


async def test_metrics_are_for_the_administrator_and_scrapers(front: HttpFront) -> None:
    for key, status in (("root", 200), ("scraper", 200), ("acme", 403), (None, 401)):
        assert (await front.get("/metrics", key)).status_code == status


async def test_metrics_may_be_open(open_front: OpenFront) -> None:
    async with open_front(front={"metrics_open": True}) as front:
        assert (await front.get("/metrics", None)).status_code == 200


async def test_metrics_are_in_the_text_format(front: HttpFront) -> None:
    await front.post(CHAT, chat("sql", model="auto"))
    answer = await front.get("/metrics", "scraper")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert names >= {
        "braid_requests",
        "braid_requests_in_flight",
        "braid_decisions",
        "braid_route_seconds",
        "braid_time_to_first_token_seconds",
        "braid_replica_kv_blocks",
        "braid_adapter_hits",
        "braid_engine_steps",
        "braid_tenants_file_refused",
    }


async def test_a_request_is_counted_by_its_outcome(front: HttpFront) -> None:
    await front.post(CHAT, chat("sql", model="auto"))
    await front.post(CHAT, chat(n=99))
    await front.post(CHAT, chat(), "nobody")
    figures = await front.figures()
    counted = {
        outcome: figures[
            f'braid_requests_total{{endpoint="chat",outcome="{outcome}",tenant="{tenant}"}}'
        ]
        for outcome, tenant in (
            ("completed", "acme"),
            ("rejected_invalid", "acme"),
            ("rejected_auth", ""),
        )
    }
    assert set(counted.values()) == {1}
    assert figures['braid_decisions_total{source="computed",tenant="acme"}'] == 1
