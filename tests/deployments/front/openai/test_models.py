"""The list of models: what a tenant may put into ``model``."""

import pytest

from tests.support.front_wiring import STARTED_AT
from tests.support.http_front import HttpFront
from tests.support.scripted_replica import MAX_MODEL_LEN


async def ids(front: HttpFront, key: str = "acme") -> list[str]:
    answer = await front.get("/v1/models", key)
    assert answer.status_code == 200
    assert answer.json()["object"] == "list"
    return [card["id"] for card in answer.json()["data"]]


async def test_the_base_the_adapters_and_the_routers_are_listed(front: HttpFront) -> None:
    routers = ["auto", "auto:words", "auto:sentences", "auto:fixed"]
    assert await ids(front) == ["org/tiny", "cron", "json", "sql", *routers]


async def test_a_tenant_sees_the_adapters_that_it_may_use(front: HttpFront) -> None:
    seen = await ids(front, "globex")
    assert "sql" in seen
    assert not {"cron", "json"} & set(seen)


@pytest.mark.parametrize("name", ["org/tiny", "tiny"])
async def test_the_base_has_a_card(front: HttpFront, name: str) -> None:
    answer = await front.get(f"/v1/models/{name}")
    assert answer.json() == {
        "id": "org/tiny",
        "object": "model",
        "created": STARTED_AT,
        "owned_by": "braid",
        "root": "org/tiny",
        "parent": None,
        "max_model_len": MAX_MODEL_LEN,
    }


async def test_an_adapter_has_a_card(front: HttpFront) -> None:
    card = (await front.get("/v1/models/sql")).json()
    assert (card["id"], card["parent"], card["rank"]) == ("sql", "org/tiny", 2)
    assert card["owned_by"] == "shared"
    assert len(card["root"]) == 64
    assert (await front.get("/v1/models/org/tiny:sql")).json() == card


async def test_a_router_has_a_card(front: HttpFront) -> None:
    assert (await front.get("/v1/models/auto:words")).json()["root"] == "words"


@pytest.mark.parametrize(("name", "key"), [("ghost", "acme"), ("json", "globex")])
async def test_what_a_tenant_may_not_use_has_none(front: HttpFront, name: str, key: str) -> None:
    answer = await front.get(f"/v1/models/{name}", key)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
