"""``/admin/v1/policy`` over HTTP and a real server: reading, applying, versions, refusals."""

from typing import Any

import pytest
import redis

from cluster.placement.policy.policy_store import PolicyStore
from cluster.placement.policy.policy_versions import PolicyDraft
from cluster.redis_client import redis_client
from tests.support.http_front import HttpFront, OpenFront

pytestmark = [pytest.mark.redis]


async def put(front: HttpFront, text: str, key: str = "root", **fields: Any) -> Any:
    body = {"text": text, "message": "because", **fields}
    return await front.ask("PUT", "/admin/v1/policy", key, json=body)


async def test_at_first_the_defaults_are_in_force(open_front: OpenFront, redis_url: str) -> None:
    async with open_front(redis_url=redis_url) as front:
        front.cluster.placement = {"policy_version": 0, "policy_fronts": {"f": 0}}
        body = (await front.get("/admin/v1/policy", "root")).json()
        assert (body["version"], body["text"], body["author"]) == (0, "", None)
        assert body["effective"]["replicas"]["max"] == 1
        assert body["replicas_now"] == {"min": 1, "max": 1}
        assert body["following"] == {"controller": 0, "fronts": {"f": 0}}
        assert (body["managed_by"], body["override"], body["error"]) == (None, None, None)
        assert (await front.get("/admin/v1/policy/history", "root")).json()["data"] == []


async def test_a_policy_is_applied_and_kept_with_who_and_why(
    open_front: OpenFront, redis_url: str
) -> None:
    text = "replicas: {max: 3}\ntenants: {acmee: standard, '*': standard}\n"
    async with open_front(redis_url=redis_url) as front:
        answer = await put(front, text)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["version"], body["changed"]) == (1, True)
        assert body["warnings"] == [
            {
                "path": "tenants.acmee",
                "message": 'no such tenant; did you mean "acme"?',
                "line": None,
            }
        ]
        assert (await put(front, text)).json()["changed"] is False
        shown = (await front.get("/admin/v1/policy", "root")).json()
        assert (shown["version"], shown["text"], shown["author"]) == (1, text, "root")
        assert (shown["message"], shown["effective"]["replicas"]["max"]) == ("because", 3)
        (listed,) = (await front.get("/admin/v1/policy/history", "root")).json()["data"]
        assert (listed["version"], listed["author"]) == (1, "root")
        assert "text" not in listed
        kept = (await front.get("/admin/v1/policy/versions/1", "root")).json()
        assert (kept["text"], kept["sha256"]) == (text, listed["sha256"])


@pytest.mark.parametrize(
    ("text", "param", "words"),
    [
        ("replicas: {mni: 1}", "replicas.mni", "policy:1: replicas.mni: unknown key; did you mean"),
        ("replicas: {min: 8, max: 4}", "replicas.min", "8 is above replicas.max 4"),
        ("{", None, "not valid YAML"),
        ("", None, "policy: empty; begin with version: 2"),
    ],
)
async def test_a_broken_policy_is_refused_with_path_and_fix(
    open_front: OpenFront, redis_url: str, text: str, param: str | None, words: str
) -> None:
    async with open_front(redis_url=redis_url) as front:
        answer = await put(front, text)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("policy_invalid", param)
        assert words in error["message"]
        assert (await front.get("/admin/v1/policy", "root")).json()["version"] == 0


@pytest.mark.parametrize("message", ["", "\0", "because\0", " ", "\x1b\n"])
async def test_a_reason_has_words(open_front: OpenFront, redis_url: str, message: str) -> None:
    async with open_front(redis_url=redis_url) as front:
        answer = await put(front, "version: 2", message=message)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "message"


@pytest.mark.parametrize("key", ["acme", "scraper", None])
async def test_only_administrators_may(
    open_front: OpenFront, redis_url: str, key: str | None
) -> None:
    status = 401 if key is None else 403
    async with open_front(redis_url=redis_url) as front:
        for path in (
            "/admin/v1/policy",
            "/admin/v1/policy/history",
            "/admin/v1/policy/versions/1",
        ):
            assert (await front.get(path, key)).status_code == status
        assert (await put(front, "replicas: {max: 9}", key)).status_code == status
        assert (await front.get("/admin/v1/policy", "root")).json()["version"] == 0


async def test_a_text_that_is_lost_is_shown_by_its_number_and_replaced(
    open_front: OpenFront, redis_url: str
) -> None:
    async with open_front(redis_url=redis_url) as front:
        await put(front, "replicas: {max: 3}")
        await put(front, "replicas: {max: 4}")
        with redis.Redis.from_url(redis_url) as kept:
            kept.delete("braid:v1:policy:2")
        front.cluster.placement = {"policy_version": 1}
        shown = (await front.get("/admin/v1/policy", "root")).json()
        assert (shown["version"], shown["text"], shown["author"]) == (2, "", None)
        assert shown["error"] == "version 2 has no text in Redis; apply a policy again"
        assert shown["effective"]["replicas"]["max"] == 3, "of the version that is followed"
        answer = await put(front, "replicas: {max: 5}", expected=shown["version"])
        assert answer.status_code == 200, answer.text
        shown = (await front.get("/admin/v1/policy", "root")).json()
        assert (shown["version"], shown["effective"]["replicas"]["max"]) == (3, 5)


async def test_a_text_that_cannot_be_read_shows_what_is_followed(
    open_front: OpenFront, redis_url: str
) -> None:
    store = PolicyStore(redis_client(redis_url, timeout_s=1.0, name="controller"))
    await store.commit(PolicyDraft("replicas: {max: 3}", "root", "first"))
    await store.commit(PolicyDraft("pins: []", "root", "of an earlier release"))
    async with open_front(redis_url=redis_url) as front:
        for followed, most in ((1, 3), (0, 1), (2, 1), (9, 1)):
            front.cluster.placement = {"policy_version": followed}
            shown = (await front.get("/admin/v1/policy", "root")).json()
            assert (shown["version"], shown["text"]) == (2, "pins: []")
            assert "policy version 2:1: pins: is gone" in shown["error"]
            assert shown["effective"]["replicas"]["max"] == most
    await store.close()


async def test_a_broken_number_is_refused_by_its_path(
    open_front: OpenFront, redis_url: str
) -> None:
    async with open_front(redis_url=redis_url) as front:
        for value in ("!!int ''", "!!bool maybe", "0x" + "f" * 4000, "0" + "7" * 5000):
            answer = await put(front, f"replicas: {{min: {value}}}")
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["param"] == "replicas.min"


async def test_two_that_edit_the_same_version_do_not_overwrite_each_other(
    open_front: OpenFront, redis_url: str
) -> None:
    async with open_front(redis_url=redis_url) as one, open_front(redis_url=redis_url) as other:
        assert (await put(one, "replicas: {max: 3}", expected=0)).status_code == 200
        late = await put(other, "replicas: {max: 4}", expected=0)
        assert (late.status_code, late.json()["error"]["code"]) == (409, "policy_conflict")
        assert "version 1 is in force, not 0" in late.json()["error"]["message"]
        assert (await other.get("/admin/v1/policy", "root")).json()["version"] == 1


async def test_a_file_that_manages_the_policy_is_overridden_only_for_a_time(
    open_front: OpenFront, redis_url: str
) -> None:
    store = PolicyStore(redis_client(redis_url, timeout_s=1.0, name="controller"))
    await store.commit(PolicyDraft("replicas: {max: 2}", "file", "read"), file="/etc/p.yaml")
    async with open_front(redis_url=redis_url) as front:
        refused = await put(front, "replicas: {max: 4}")
        assert refused.status_code == 409
        assert "managed by /etc/p.yaml" in refused.json()["error"]["message"]
        assert (await put(front, "replicas: {max: 4}", override_s=3600)).json()["version"] == 2
        shown = (await front.get("/admin/v1/policy", "root")).json()
        assert (shown["version"], shown["managed_by"]) == (2, "/etc/p.yaml")
        assert shown["override"]["falls_back_to"] == 1
        assert 3500 < shown["override"]["left_s"] <= 3600
    await store.close()


@pytest.mark.parametrize("number", ["7", "0", "x", "-1", "9" * 40])
async def test_a_version_that_is_not_kept_is_not_found(
    open_front: OpenFront, redis_url: str, number: str
) -> None:
    async with open_front(redis_url=redis_url) as front:
        answer = await front.get(f"/admin/v1/policy/versions/{number}", "root")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "policy_not_found")


async def test_without_redis_the_store_is_said_to_be_away(front: HttpFront) -> None:
    for answer in (
        await front.get("/admin/v1/policy", "root"),
        await put(front, "replicas: {max: 3}"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
