"""Names that are switched and rolled back, and files that are verified."""

import pytest

from tests.support.admin_requests import NO_VERSION, add_adapter, version
from tests.support.http_front import HttpFront


async def test_a_name_is_switched_and_rolled_back(front: HttpFront) -> None:
    await add_adapter(front, "fresh")
    digest, before = await version(front, "fresh"), await version(front, "sql")
    answer = await front.post("/admin/v1/adapters/sql/switch", {"version": digest}, "root")
    assert answer.status_code == 200
    assert (answer.json()["version"], answer.json()["previous"]) == (digest, before)
    answer = await front.post("/admin/v1/adapters/sql/rollback", {}, "root")
    assert answer.json()["version"] == before
    assert answer.json()["history"][-1]["rollback"] is True


async def test_a_name_without_a_past_is_not_rolled_back(front: HttpFront) -> None:
    answer = await front.post("/admin/v1/adapters/sql/rollback", {}, "root")
    assert (answer.status_code, answer.json()["error"]["param"]) == (409, "name")


@pytest.mark.parametrize("body", [{"version": NO_VERSION}, {"version": "x"}, {}])
async def test_a_name_is_not_switched_to_nothing(front: HttpFront, body: dict[str, str]) -> None:
    answer = await front.post("/admin/v1/adapters/sql/switch", body, "root")
    assert answer.status_code == (404 if body.get("version") == NO_VERSION else 400)
    assert answer.json()["error"]["param"] == "version"


async def test_intact_files_are_verified(front: HttpFront) -> None:
    await add_adapter(front, "fresh")
    for name in ("sql", "fresh", await version(front, "fresh")):
        answer = await front.post(f"/admin/v1/adapters/{name}/verify", None, "root")
        assert answer.status_code == 200
        assert answer.json()["intact"] is True


async def test_changed_files_are_not(front: HttpFront) -> None:
    await add_adapter(front, "fresh")
    digest = await version(front, "fresh")
    (weights,) = front.store.rglob(f"{digest}/adapter_model.safetensors")
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    answer = await front.post("/admin/v1/adapters/fresh/verify", None, "root")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "adapter_corrupt")
