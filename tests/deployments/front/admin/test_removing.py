"""Adapters that are removed, or kept by a pin."""

from tests.support.admin_requests import ADAPTERS, add_adapter, names, version
from tests.support.http_front import HttpFront, OpenFront
from tests.support.openai_bodies import CHAT, chat


async def test_a_removed_adapter_is_refused_from_then_on(front: HttpFront) -> None:
    await add_adapter(front, "fresh")
    digest = await version(front, "fresh")
    answer = await front.delete("/admin/v1/adapters/fresh?wait_s=0", "root")
    assert answer.status_code == 202  # the controller is what collects it
    body = answer.json()
    assert (body["object"], body["name"], body["deleted"]) == ("adapter.deleted", "fresh", True)
    assert body["freed"] == []
    assert [card["version"] for card in body["waiting"]] == [digest]
    assert (await front.post(CHAT, chat(model="fresh"))).status_code == 404


async def test_a_removal_waits_for_no_version_that_another_name_has(front: HttpFront) -> None:
    await add_adapter(front, "fresh")
    digest = await version(front, "fresh")
    await front.post(f"{ADAPTERS}/second/switch", {"version": digest}, "root")
    answer = await front.delete("/admin/v1/adapters/fresh", "root")
    assert answer.status_code == 200
    assert answer.json()["waiting"] == []
    assert (await front.post(CHAT, chat(model="second"))).status_code == 200


async def test_a_removal_ends_when_its_time_is_up(front: HttpFront) -> None:
    await add_adapter(front, "fresh")
    answer = await front.in_time(front.delete("/admin/v1/adapters/fresh", "root"))
    assert answer.status_code == 202


async def test_a_version_that_names_point_to_is_removed_by_force(front: HttpFront) -> None:
    await add_adapter(front, "fresh")
    digest = await version(front, "fresh")
    answer = await front.delete(f"/admin/v1/adapters/{digest}", "root")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "adapter_in_use")
    answer = await front.delete(f"/admin/v1/adapters/{digest}?force=true&wait_s=0", "root")
    assert answer.status_code == 202
    assert "fresh" not in await names(front)


async def test_a_pinned_adapter_is_not_removed(front: HttpFront) -> None:
    answer = await front.post("/admin/v1/adapters/sql/pin", {}, "root")
    assert answer.json()["pinned"] is True
    answer = await front.delete("/admin/v1/adapters/sql", "root")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "adapter_in_use")
    answer = await front.post("/admin/v1/adapters/sql/pin", {"pinned": False}, "root")
    assert answer.json()["pinned"] is False


async def test_a_slot_stays_free_of_pins(open_front: OpenFront) -> None:
    async with open_front(adapters={"slots": 1}) as front:
        answer = await front.post("/admin/v1/adapters/sql/pin", {}, "root")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "adapter_capacity")
