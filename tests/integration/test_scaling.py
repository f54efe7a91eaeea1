"""Replicas come and go under load, to none and back, and no request is lost."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from cluster.base_model.source import ModelLocation
from testing.local_cluster import LocalCluster
from testing.signatures.signature_maker import SignatureMaker
from testing.waiting import wait_for
from tests.integration.conftest import REPLICAS

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis, pytest.mark.timeout(420)]

ADAPTERS = "/admin/v1/adapters"
PROMPT = "The seven colours of the rainbow are"
TOKENS = 32
READERS = 3
NONE = {"target": 0, "running": 0, "starting": 0}


@pytest.fixture
def maker(base_model: ModelLocation) -> SignatureMaker:
    return SignatureMaker(base_model.path, 1)


@pytest.fixture
def scaled(cluster: LocalCluster) -> Iterator["ScaledCluster"]:
    """The cluster with an editable policy, which is put back."""
    path = cluster.state.root / "policy.yaml"
    good = path.read_text()
    scaled = ScaledCluster(cluster, good)
    try:
        yield scaled
    finally:
        path.write_text(good)
        scaled.wait_for_replicas(REPLICAS)


@dataclass
class ScaledCluster:
    cluster: LocalCluster
    policy: str

    def set_replicas(self, fields: str) -> None:
        """Replace the policy's section ``replicas``."""
        text, found = re.subn(r"replicas: \{.*\}", f"replicas: {{{fields}}}", self.policy)
        assert found == 1
        (self.cluster.state.root / "policy.yaml").write_text(text)

    def serve(self) -> dict[str, Any]:
        answer = self.cluster.get("/admin/v1/placement", "admin").json()
        found: dict[str, Any] = answer.get("serve", {})
        return found

    def wait_for_replicas(self, count: int) -> None:
        wait_for(f"{count} run", lambda: self.serve().get("running") == count, 120)
        wait_for(f"{count} reached", lambda: self.cluster.ready_replicas() == count, 60)

    async def fall_to_zero(self) -> None:
        self.set_replicas(f"min: 0, max: {REPLICAS}, zero_after: 1")

        def empty() -> bool:
            none_reached = self.cluster.ready_replicas() == 0
            return none_reached and NONE.items() <= self.serve().items()

        await asyncio.to_thread(wait_for, "no replica", empty, 120)


@dataclass
class Readers:
    """Clients that read one answer after the other."""

    client: httpx2.AsyncClient
    texts: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    answers: int = 0

    async def read_one(self) -> None:
        body = {
            "model": "sql",
            "prompt": PROMPT,
            "max_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        text = ""
        async with self.client.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                text += line + "\n"
        self.answers += 1
        if answer.status_code != 200 or "data: [DONE]" not in text:
            self.problems.append(f"{answer.status_code}: {text[-300:]}")
        self.texts.add("".join(re.findall(r'"text":"(.*?)"', text)))

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Read until the block is left, and every answer to its end."""
        going = True

        async def read() -> None:
            while going:
                await self.read_one()

        async with asyncio.TaskGroup() as group:
            for _ in range(READERS):
                group.create_task(read())
            try:
                yield
            finally:
                going = False


async def test_nothing_is_lost_while_replicas_come_and_go(scaled: ScaledCluster) -> None:
    async with scaled.cluster.client("acme") as client:
        readers = Readers(client)
        await readers.read_one()
        async with readers.reading():
            for count in (1, 2):
                scaled.set_replicas(f"min: {count}, max: {count}")
                await asyncio.to_thread(scaled.wait_for_replicas, count)
    assert readers.problems == []
    assert len(readers.texts) == 1, "an answer went on as another one"
    assert readers.answers > READERS


async def test_held_requests_are_answered_by_the_first_replica(scaled: ScaledCluster) -> None:
    async with scaled.cluster.client("acme") as client:
        await scaled.fall_to_zero()
        began = time.perf_counter()
        answer = await client.post(
            "/v1/completions",
            json={"model": "sql", "prompt": PROMPT},
            headers={"x-braid-max-wait": "0"},
        )
        assert time.perf_counter() - began < 5
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "starting")
        assert int(answer.headers["retry-after"]) >= 1
        readers = Readers(client)
        await asyncio.gather(*(readers.read_one() for _ in range(4)))
        assert readers.problems == []
        assert len(readers.texts) == 1
    wait_for("replicas are wanted again", lambda: scaled.serve()["target"] >= 1, 10)


async def test_an_adapter_is_added_while_no_replica_runs(
    scaled: ScaledCluster, archives: list[bytes]
) -> None:
    await scaled.fall_to_zero()
    answer = await asyncio.to_thread(
        scaled.cluster.upload, ADAPTERS, "admin", archives[0], name="from-zero"
    )
    assert answer.status_code in (200, 201), answer.text
    scaled.set_replicas(f"min: {REPLICAS}, max: {REPLICAS}")
    await asyncio.to_thread(scaled.wait_for_replicas, REPLICAS)
    removed = await asyncio.to_thread(scaled.cluster.delete, f"{ADAPTERS}/from-zero", "admin")
    assert removed.status_code == 200, removed.text
