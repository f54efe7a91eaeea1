"""Routers as an administrator adds, reads and removes them."""

from pathlib import Path
from typing import Any

import pytest

from cluster.adapters.registry.records import AddOutcome, ReplicaAnswer
from router_service.routers.static import save_static
from tests.support.admin_requests import TAR
from tests.support.archives import tar_of_folder
from tests.support.http_front import HttpFront, OpenFront
from tests.support.openai_bodies import CHAT, chat

ARROW: dict[str, Any] = {
    "name": "arrow",
    "kind": "arrow",
    "options": {"adapters": ["sql", "cron"]},
}


def artifact(folder: Path, weights: dict[str, float], **fields: Any) -> bytes:
    save_static(folder, weights, **fields)
    return tar_of_folder(folder)


async def upload(front: HttpFront, content: bytes, query: str = "name=mine") -> Any:
    return await front.post(f"/admin/v1/routers?{query}", content, "root", headers=TAR)


async def listed(front: HttpFront) -> list[str]:
    answer = await front.get("/admin/v1/routers", "root")
    assert answer.json()["object"] == "list"
    return [card["name"] for card in answer.json()["data"]]


async def test_the_configured_routers_are_listed(front: HttpFront) -> None:
    (card,) = (await front.get("/admin/v1/routers", "root")).json()["data"]
    assert (card["name"], card["kind"], card["source"]) == ("fixed", "static", "config")
    assert card["state"] == "serving"
    assert card["candidates"] == ["sql", "json"]
    assert (await front.get("/admin/v1/routers/fixed", "root")).json() == card


async def test_an_added_router_routes_at_once(front: HttpFront, tmp_path: Path) -> None:
    answer = await upload(front, artifact(tmp_path / "mine", {"cron": 0.5}))
    assert answer.status_code == 201, answer.text
    card = answer.json()
    assert (card["name"], card["source"], card["by"]) == ("mine", "added", "root")
    served = await front.post(CHAT, chat(model="auto:mine"))
    assert served.headers["x-braid-adapters"].startswith("cron@")
    assert "auto:mine" in (await front.get("/v1/models")).text


async def test_a_router_without_an_artifact_is_added(front: HttpFront) -> None:
    answer = await front.post("/admin/v1/routers", ARROW, "root")
    assert answer.status_code == 201, answer.text
    assert answer.json()["candidates"] == ["sql", "cron"]
    assert await listed(front) == ["fixed", "arrow"]


async def test_a_router_of_no_known_kind_is_refused(front: HttpFront) -> None:
    answer = await front.post("/admin/v1/routers", {**ARROW, "kind": "nothing"}, "root")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "router_invalid"
    assert await listed(front) == ["fixed"]


async def test_a_name_that_is_taken_is_409(front: HttpFront, tmp_path: Path) -> None:
    content = artifact(tmp_path / "mine", {"cron": 1.0})
    answer = await upload(front, content, "name=fixed")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "router_conflict")
    answer = await upload(front, content, "name=fixed&replace=true")
    assert answer.status_code == 201
    assert answer.json()["source"] == "added"
    answer = await front.delete("/admin/v1/routers/fixed", "root")
    assert answer.json() == {"object": "router.deleted", "name": "fixed", "deleted": True}
    card = (await front.get("/admin/v1/routers/fixed", "root")).json()
    assert card["source"] == "config"


async def test_a_removed_router_is_refused_from_then_on(front: HttpFront, tmp_path: Path) -> None:
    await upload(front, artifact(tmp_path / "mine", {"cron": 1.0}))
    assert (await front.delete("/admin/v1/routers/mine", "root")).status_code == 200
    assert (await front.post(CHAT, chat(model="auto:mine"))).status_code == 404
    assert await listed(front) == ["fixed"]


@pytest.mark.parametrize("name", ["ghost", "fixed"])
async def test_only_what_was_added_is_removed(front: HttpFront, name: str) -> None:
    answer = await front.delete(f"/admin/v1/routers/{name}", "root")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "router_not_found")


async def test_a_router_that_is_not_there_is_404(front: HttpFront) -> None:
    answer = await front.get("/admin/v1/routers/ghost", "root")
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "name")


@pytest.mark.parametrize(
    ("weights", "fields", "status", "code"),
    [
        ({"ghost": 1.0}, {}, 400, "router_invalid"),
        ({"sql": 1.0}, {"adapter_digests": {"sql": "f" * 64}}, 409, "router_outdated"),
    ],
    ids=["candidate", "version"],
)
async def test_a_router_over_adapters_that_are_not_there_is_refused(
    front: HttpFront,
    tmp_path: Path,
    weights: dict[str, float],
    fields: dict[str, Any],
    status: int,
    code: str,
) -> None:
    answer = await upload(front, artifact(tmp_path / "mine", weights, **fields))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert await listed(front) == ["fixed"]


@pytest.mark.parametrize(
    ("answered", "status", "code"),
    [
        (ReplicaAnswer("r0", AddOutcome.SILENT), 503, "replica_lost"),
        (ReplicaAnswer("r0", AddOutcome.REFUSED, "router_invalid", "no"), 400, "router_invalid"),
    ],
    ids=["silent", "refused"],
)
async def test_a_router_that_a_replica_cannot_serve_is_not_added(
    front: HttpFront, tmp_path: Path, answered: ReplicaAnswer, status: int, code: str
) -> None:
    front.replicas[0].router_answer = answered
    answer = await upload(front, artifact(tmp_path / "mine", {"sql": 1.0}))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert await listed(front) == ["fixed"]


@pytest.mark.parametrize(
    ("query", "param"),
    [("", "name"), ("name=a&colour=red", "colour"), ("name=a&options={", "options")],
)
async def test_an_upload_that_cannot_be_is_400(front: HttpFront, query: str, param: str) -> None:
    answer = await upload(front, b"", query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "name"), ({"name": "a"}, "kind"), ({**ARROW, "path": "/etc"}, "path")],
)
async def test_a_body_that_cannot_be_is_400(
    front: HttpFront, body: dict[str, Any], param: str
) -> None:
    answer = await front.post("/admin/v1/routers", body, "root")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_nothing_is_uploaded_without_a_store(open_front: OpenFront, tmp_path: Path) -> None:
    async with open_front(adapters={"store_dir": None}) as front:
        answer = await upload(front, artifact(tmp_path / "mine", {"sql": 1.0}))
        assert answer.status_code == 403
