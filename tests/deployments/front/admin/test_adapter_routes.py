"""Checks what an administrator may write, over HTTP: nothing of it is ignored."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest
from fastapi import FastAPI

from cluster.adapters.registry.records import Name
from cluster.domain.adapter import SHARED_OWNER
from cluster.domain.ids import TenantId
from cluster.tenancy.keys import hash_key
from cluster.tenancy.tenants import TenantDirectory, TenantEntry
from deployments.front.admin.adapter_admin import NameChange
from deployments.front.admin.adapter_routes import build_adapter_routes
from deployments.front.admin.admin_context import AdminContext
from deployments.front.http import problem
from tests.deployments.front.admin.test_adapter_admin import ADMIN, Bench
from tests.support.archives import tar_of_folder
from tests.support.doors import make_door

ACME = TenantId("acme")
HEADERS = {"authorization": "Bearer key"}
DIGEST = "0" * 64


class Routes:
    """The routes over a registry in memory, where ``one`` is shared and another ``one`` acme's."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        tenants = TenantDirectory(
            "tenants",
            (
                TenantEntry(id="admin", keys=(hash_key("key"),), admin=True),
                TenantEntry(id="acme", keys=(hash_key("other"),)),
            ),
        )
        context = SimpleNamespace(
            adapter_admin=bench.admin,
            adapters=bench.adapters,
            tenants=tenants,
            replicas=SimpleNamespace(holdings=tuple),
            door=make_door(tenants, max_body_bytes=10_000),
        )
        app = FastAPI()
        problem.install(app)
        app.include_router(build_adapter_routes(cast("AdminContext", context)))
        self._client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://front", headers=HEADERS
        )

    async def ask(self, method: str, path: str, **fields: Any) -> httpx2.Response:
        return await self._client.request(method, f"/admin/v1/adapters{path}", **fields)

    async def refused(self, method: str, path: str, param: str | None, **fields: Any) -> str:
        """Return the message of a 400 that names ``param``, and changes nothing."""
        before = self.names()
        answer = await self.ask(method, path, **fields)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["param"] == param
        assert self.names() == before
        return str(error["message"])

    def names(self) -> dict[str, Name]:
        return dict(self.bench.registry.view.names)

    async def close(self) -> None:
        await self._client.aclose()


@pytest.fixture
async def routes(tmp_path: Path) -> AsyncIterator[Routes]:
    bench = Bench(tmp_path)
    await bench.admin.add(bench.source(1), NameChange("one"), ADMIN)
    await bench.admin.add(bench.source(2), NameChange("one", ACME), ADMIN)
    made = Routes(bench)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/one?tennant=acme", "tennant"),
        (f"/one?expect={DIGEST}", "expect"),
        ("/one?expected=0123", "expected"),
        ("/one?force=maybe", "force"),
        ("/one?wait_s=nan", "wait_s"),
        ("/one?wait_s=121", "wait_s"),
        ("/one?tenant=acme&tenant=globex", "tenant"),
        (f"/{DIGEST}?tenant=acme", "tenant"),
    ],
)
async def test_removing_ignores_no_parameter(routes: Routes, path: str, param: str) -> None:
    await routes.refused("DELETE", path, param)


async def test_removing_takes_no_body(routes: Routes) -> None:
    message = await routes.refused("DELETE", "/one", None, json={"tenant": "acme"})
    assert "query" in message
    answer = await routes.ask("DELETE", "/one?tenant=acme&wait_s=0", json={})
    assert answer.status_code == 202, answer.text
    assert set(routes.names()) == {"shared/one"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/one/pin", {"pinned": True}),
        ("/one/rollback", {}),
        ("/one/switch", {"version": DIGEST}),
        ("", {"name": "two", "source": {"folder": "adapter-1"}}),
    ],
)
async def test_what_goes_into_the_body_is_no_query(routes: Routes, path: str, body: Any) -> None:
    await routes.refused("POST", f"{path}?tenant=acme", "tenant", json=body)


async def test_a_key_or_parameter_is_there_once(routes: Routes) -> None:
    twice = b'{"name": "two", "name": "three", "source": {"folder": "adapter-1"}}'
    await routes.refused("POST", "", "name", content=twice)
    nested = b'{"name": "two", "source": {"folder": "x", "folder": "adapter-1"}}'
    await routes.refused("POST", "", "folder", content=nested)
    upload = {"content": b"", "headers": {"content-type": "application/x-tar"}}
    await routes.refused("POST", "?name=two&grants=acme&grants=admin", "grants", **upload)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tenant": "acmee"}, "tenant"),
        ({"grants": ["acme", "nobody"]}, "grants"),
        ({"tenant": "acme", "grants": ["admin"]}, "grants"),
    ],
)
async def test_a_name_is_for_tenants_that_are_there(
    routes: Routes, fields: dict[str, Any], param: str
) -> None:
    digest = routes.names()[f"{SHARED_OWNER}/one"].digest
    body = {"version": digest, **fields}
    await routes.refused("POST", "/two/switch", param, json=body)
    archive = tar_of_folder(routes.bench.folder / "sources" / "adapter-1")
    query = {"name": "two"} | {
        key: ",".join(value) if isinstance(value, list) else value for key, value in fields.items()
    }
    headers = {"content-type": "application/x-tar"}
    await routes.refused("POST", "", param, params=query, content=archive, headers=headers)


async def test_grants_to_all_and_to_some(routes: Routes) -> None:
    digest = routes.names()[f"{SHARED_OWNER}/one"].digest
    for grants in (["*"], ["acme", "admin"], []):
        body = {"version": digest, "grants": grants}
        answer = await routes.ask("POST", "/two/switch", json=body)
        assert answer.json()["grants"] == grants


async def test_a_body_of_no_known_type(routes: Routes) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    message = await routes.refused("POST", "?name=two", None, content=b"--x", headers=headers)
    assert "multipart/form-data" in message
    assert "application/x-tar" in message
    answer = await routes.ask("POST", "", content=json.dumps({"name": "two"}).encode())
    assert answer.json()["error"]["param"] == "source"


async def test_what_must_agree_with_the_base_may_be_said_of_one(routes: Routes) -> None:
    folder = routes.bench.folder / "sources" / "adapter-3"
    routes.bench.source(3)
    (folder / "manifest.json").write_text('{"base_digest": "another"}')
    upload = {
        "content": tar_of_folder(folder),
        "headers": {**HEADERS, "content-type": "application/x-tar"},
    }
    answer = await routes.ask("POST", "?name=two", **upload)
    assert answer.json()["error"]["code"] == "adapter_wrong_base"
    await routes.refused("POST", "?name=two&base_check=never", "base_check", **upload)
    answer = await routes.ask("POST", "?name=two&base_check=shapes", **upload)
    assert answer.status_code == 201, answer.text
    assert answer.json()["notes"] == []
    assert answer.json()["chat_template"] == "base's"
