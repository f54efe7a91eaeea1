"""Adapters as an administrator adds, switches, pins, verifies and removes them."""

import asyncio
from typing import Any

import pytest

from cluster.adapters.registry.records import AddOutcome, ReplicaAnswer
from tests.support.admin_requests import (
    ADAPTERS,
    NO_VERSION,
    TAR,
    add_adapter,
    names,
    version,
)
from tests.support.archives import tar_of_folder
from tests.support.http_front import HttpFront, OpenFront
from tests.support.openai_bodies import CHAT, chat


async def test_the_configured_adapters_are_listed(front: HttpFront) -> None:
    listed = (await front.get("/admin/v1/adapters", "root")).json()
    assert listed["object"] == "list"
    assert [card["name"] for card in listed["data"]] == ["cron", "json", "sql"]
    assert listed["other_versions"] == []
    assert listed["registry"]["error"] is None
    card = listed["data"][0]
    assert (card["object"], card["owner"], card["state"]) == ("adapter", "shared", "serving")
    assert (card["rank"], card["pinned"], card["previous"]) == (2, False, None)
    assert card["source"] == "adapters_dir cron"


async def test_an_added_adapter_is_served_at_once(front: HttpFront) -> None:
    answer = await add_adapter(front, "fresh")
    assert answer.status_code == 201, answer.text
    card = answer.json()
    assert (card["name"], card["owner"], card["source"]) == ("fresh", "shared", "folder fresh")
    assert [step["by"] for step in card["history"]] == ["root"]
    served = await front.post(CHAT, chat(model="fresh"))
    assert served.status_code == 200
    assert card["version"] in served.headers["x-braid-adapters"]


async def test_a_tenants_own_adapter_is_for_that_tenant(front: HttpFront) -> None:
    assert (await add_adapter(front, "fresh", tenant="globex")).status_code == 201
    assert (await front.post(CHAT, chat(model="fresh"), "globex")).status_code == 200
    assert (await front.post(CHAT, chat(model="fresh"), "acme")).status_code == 404
    card = (await front.get("/admin/v1/adapters/fresh?tenant=globex", "root")).json()
    assert card["owner"] == "globex"
    assert (await front.get("/admin/v1/adapters/fresh", "root")).status_code == 404


async def test_a_granted_adapter_is_for_those_tenants_too(front: HttpFront) -> None:
    answer = await add_adapter(front, "fresh", grants=["globex"])
    assert answer.json()["grants"] == ["globex"]
    assert (await front.post(CHAT, chat(model="fresh"), "globex")).status_code == 200


async def test_a_name_that_is_taken_is_409(front: HttpFront) -> None:
    answer = await add_adapter(front, "sql")
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "adapter_conflict"


async def test_a_name_is_replaced_where_that_is_asked_for(front: HttpFront) -> None:
    before = await version(front, "sql")
    answer = await add_adapter(front, "sql", replace=True)
    assert answer.status_code == 201
    assert answer.json()["previous"] == before
    assert answer.json()["version"] != before


async def test_a_name_is_replaced_only_where_it_points_as_expected(front: HttpFront) -> None:
    assert (await add_adapter(front, "sql", expected=NO_VERSION)).status_code == 409
    expected = await version(front, "sql")
    assert (await add_adapter(front, "sql", expected=expected)).status_code == 201


@pytest.mark.parametrize("name", ["org/tiny", "tiny", "auto", "a b", "", "f" * 64, "../up"])
async def test_a_name_that_cannot_be_is_400(front: HttpFront, name: str) -> None:
    answer = await add_adapter(front, name)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "name"


@pytest.mark.parametrize(
    ("source", "status", "code"),
    [
        ({"folder": "nothing"}, 404, "adapter_source_not_found"),
        ({"folder": "../adapters/sql"}, 400, "adapter_unsafe_path"),
        ({"folder": "wide"}, 400, "adapter_wrong_base"),
        ({"url": "https://files.example.com/a.tar"}, 403, "adapter_source_refused"),
        ({"folder": "fresh", "hub": "org/x"}, 400, "invalid_request"),
        ({}, 400, "invalid_request"),
        ({"path": "fresh"}, 400, "invalid_request"),
    ],
    ids=str,
)
async def test_a_source_that_cannot_be_added_is_refused(
    front: HttpFront, source: dict[str, str], status: int, code: str
) -> None:
    body = {"name": "new", "source": source}
    answer = await front.post("/admin/v1/adapters", body, "root")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert "new" not in await names(front)


async def test_the_hub_may_be_off(open_front: OpenFront) -> None:
    async with open_front(adapters={"source_hub": False}) as front:
        body = {"name": "new", "source": {"hub": "org/x"}}
        answer = await front.post("/admin/v1/adapters", body, "root")
        assert answer.status_code == 403
        assert answer.json()["error"]["param"] == "source"


@pytest.mark.parametrize(
    "missing", [{"source_dir": None}, {"store_dir": None}], ids=["source", "store"]
)
async def test_nothing_is_added_where_no_folder_is_configured(
    open_front: OpenFront, missing: dict[str, None]
) -> None:
    async with open_front(adapters=missing) as front:
        answer = await add_adapter(front, "new")
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "adapter_source_refused"


@pytest.mark.parametrize(
    ("answered", "status", "code"),
    [
        (ReplicaAnswer("r0", AddOutcome.SILENT), 503, "adapter_load_failed"),
        (
            ReplicaAnswer("r0", AddOutcome.REFUSED, "adapter_wrong_base", "too wide"),
            400,
            "adapter_wrong_base",
        ),
    ],
    ids=["silent", "refused"],
)
async def test_what_a_replica_cannot_serve_is_not_added(
    front: HttpFront, answered: ReplicaAnswer, status: int, code: str
) -> None:
    front.replicas[0].adapter_answer = answered
    answer = await add_adapter(front, "new")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "new" not in await names(front)
    listed = (await front.get("/admin/v1/adapters", "root")).json()
    (left,) = listed["other_versions"]
    assert left["state"] == "retired"
    assert [one["outcome"] for one in left["answers"]] == [answered.outcome]


@pytest.mark.parametrize("name", ["new", "sql"])
async def test_what_is_being_added_is_shown(front: HttpFront, name: str) -> None:
    front.cluster.answering.clear()
    adding = asyncio.create_task(add_adapter(front, name, replace=True))
    shown: list[dict[str, Any]] = []
    while not shown:
        await front.pause()
        answer = await front.get(f"/admin/v1/adapters/{name}", "root")
        assert answer.status_code in (200, 404)
        shown = answer.json().get("adding", [])
    assert answer.json()["state"] == ("adding" if name == "new" else "serving")
    assert [one["wanted_by"] for one in shown] == [f"shared/{name}"]
    front.cluster.answering.set()
    assert (await adding).status_code == 201
    card = (await front.get(f"/admin/v1/adapters/{name}", "root")).json()
    assert (card["version"], card["adding"]) == (shown[0]["version"], [])


@pytest.mark.parametrize(
    "path",
    [
        "/admin/v1/adapters",
        "/admin/v1/adapters/sql",
        "/admin/v1/routers",
        "/admin/v1/routers/fixed",
    ],
)
async def test_a_parameter_that_is_not_known_is_400(front: HttpFront, path: str) -> None:
    answer = await front.get(f"{path}?colour=red", "root")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "colour")


async def test_a_key_that_is_there_twice_is_400(front: HttpFront) -> None:
    body = b'{"name": "new", "name": "other", "source": {"folder": "fresh"}}'
    answer = await front.post("/admin/v1/adapters", body, "root")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "name")


async def test_nothing_is_added_without_a_replica(open_front: OpenFront) -> None:
    async with open_front(replicas=0) as front:
        answer = await add_adapter(front, "new")
        assert answer.status_code == 503


async def test_an_archive_is_added(front: HttpFront) -> None:
    content = tar_of_folder(front.sources / "fresh")
    answer = await front.post(f"{ADAPTERS}?name=new&grants=globex", content, "root", headers=TAR)
    assert answer.status_code == 201, answer.text
    assert answer.json()["grants"] == ["globex"]
    assert "new" in await names(front)


@pytest.mark.parametrize(
    ("query", "content", "headers", "param"),
    [
        ("", b"", TAR, "name"),
        ("?name=new&colour=red", b"", TAR, "colour"),
        ("?name=new&tenant=ghost", b"", TAR, "tenant"),
        ("?name=new", b"x", {"content-type": "text/html"}, None),
        ("?name=new", b"no archive", TAR, None),
        ("?name=new", b"", {**TAR, "content-length": "many"}, None),
    ],
    ids=["no name", "unknown", "tenant", "type", "bytes", "length"],
)
async def test_an_upload_that_cannot_be_is_400(
    front: HttpFront, query: str, content: bytes, headers: dict[str, str], param: str | None
) -> None:
    answer = await front.post(f"{ADAPTERS}{query}", content, "root", headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


async def test_a_version_has_a_card_of_its_own(front: HttpFront) -> None:
    digest = await version(front, "sql")
    card = (await front.get(f"/admin/v1/adapters/{digest}", "root")).json()
    assert (card["object"], card["state"]) == ("adapter.version", "served")
    assert card["names"] == ["shared/sql"]


@pytest.mark.parametrize("name", ["ghost", NO_VERSION])
async def test_an_adapter_that_is_not_there_is_404(front: HttpFront, name: str) -> None:
    for answer in (
        await front.get(f"/admin/v1/adapters/{name}", "root"),
        await front.delete(f"/admin/v1/adapters/{name}", "root"),
        await front.post(f"/admin/v1/adapters/{name}/verify", None, "root"),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "adapter_not_found"
