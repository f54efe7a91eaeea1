"""vLLM's routes: a path that may be a folder or a repository is explained when it is neither."""

from types import SimpleNamespace
from typing import cast

import httpx2
from fastapi import FastAPI

from cluster.tenancy.keys import hash_key
from cluster.tenancy.tenants import TenantDirectory, TenantEntry
from deployments.front.admin.admin_context import AdminContext
from deployments.front.admin.vllm_routes import build_vllm_routes
from deployments.front.http import problem
from tests.deployments.front.admin.test_adapter_admin import Bench
from tests.support.doors import make_door


async def test_a_mistyped_folder_is_not_only_a_repository(tmp_path):
    (tmp_path / "loras").mkdir()
    bench = Bench(
        tmp_path,
        source_dir=tmp_path / "loras",
        hub_endpoint="http://127.0.0.1:9",  # no server is there
        stall_timeout_s=2,
    )
    tenants = TenantDirectory(
        "tenants", (TenantEntry(id="admin", keys=(hash_key("key"),), admin=True),)
    )
    context = SimpleNamespace(
        adapter_admin=bench.admin,
        door=make_door(tenants, max_body_bytes=10_000),
    )
    app = FastAPI()
    problem.install(app)
    app.include_router(build_vllm_routes(cast("AdminContext", context)))
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app),
        base_url="http://front",
        headers={"authorization": "Bearer key"},
    ) as client:
        body = {"lora_name": "one", "lora_path": "team/mistyped"}
        answer = await client.post("/v1/load_lora_adapter", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (502, "lora_path")
    assert "'team/mistyped' is not a folder under adapters.source_dir" in error["message"]
    assert "repository of the hub" in error["message"]
    assert len(error["message"]) < 500
