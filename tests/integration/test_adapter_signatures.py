"""A few adapters under constant change: every token is of the version that the answer names."""

import asyncio
import random
import time
from functools import partial
from pathlib import Path

import httpx2
import pytest

from benchmarks.adapters.churn import Churn
from benchmarks.adapters.local_cluster import ADAPTERS, Admin
from benchmarks.adapters.names import NameBook
from benchmarks.adapters.signature import TENANTS, Asking, judge, make_supply, says
from benchmarks.adapters.signatures import SignatureMaker
from cluster.base_model.source import ModelLocation
from tests.support.live_cluster import LiveCluster

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

NAMES = 16
SUPPLY = 24
REQUESTS = 80
SEED = 3


def client(cluster: LiveCluster, tenant: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url=cluster.url, headers=cluster.headers(tenant), timeout=httpx2.Timeout(120)
    )


async def test_no_token_of_another_version(
    cluster: LiveCluster, base_model: ModelLocation, tmp_path: Path
) -> None:
    before = cluster.get(ADAPTERS, "admin").json()["data"]
    maker = await asyncio.to_thread(SignatureMaker, base_model.path, SUPPLY, (0, 29))
    supply = await asyncio.to_thread(make_supply, maker, tmp_path, (0, 29), SUPPLY)
    async with (
        client(cluster, "admin") as admin,
        client(cluster, TENANTS[0]) as one,
        client(cluster, TENANTS[1]) as other,
    ):
        churn = Churn(Admin(admin), supply, NameBook(), random.Random(SEED), NAMES)
        await churn.fill(4)
        clients = dict(zip(TENANTS, (one, other), strict=True))
        asking = Asking(clients, churn.book, base_model.model_id, random.Random(SEED), REQUESTS)
        changing = asyncio.create_task(churn.run(2, lambda: asking.busy))
        await asking.run(8)
        await changing
        changes = churn.book.changes
        await churn.empty(4)
    tally = await asyncio.to_thread(judge, asking.asked, churn, partial(says, maker))
    assert (churn.problems, tally.problems) == ([], [])
    assert tally.served + tally.gone == REQUESTS
    assert tally.served > REQUESTS / 2
    assert changes > NAMES, "names were meant to change meanwhile"
    assert len(tally.replicas) == 2
    deadline = time.monotonic() + 30
    while (listed := cluster.get(ADAPTERS, "admin").json())["other_versions"]:
        assert time.monotonic() < deadline, listed["other_versions"]
        await asyncio.sleep(0.1)
    assert [(card["name"], card["version"]) for card in listed["data"]] == [
        (card["name"], card["version"]) for card in before
    ]
