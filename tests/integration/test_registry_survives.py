"""Nothing registered is lost, whichever process is killed, and where Redis forgets everything."""

import json
from collections.abc import Callable, Iterator

import httpx2
import pytest
import redis

from cluster.base_model.source import ModelLocation
from testing.local_cluster import CONTROLLER, REPLICA, VALKEY, LocalCluster
from testing.signatures.signature_maker import SignatureMaker
from testing.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

ADAPTERS = "/admin/v1/adapters"
FRONT = "Front"
TOKENS = 4


@pytest.fixture
def maker(base_model: ModelLocation) -> SignatureMaker:
    return SignatureMaker(base_model.path, 2)


@pytest.fixture
def registered(cluster: LocalCluster, archives: list[bytes]) -> Iterator[list[str]]:
    """A name with two versions, the second of which it points to; pinned, for acme."""
    digests = []
    for archive in archives:
        answer = cluster.upload(
            ADAPTERS, "admin", archive, name="survivor", grants="acme", replace="true"
        )
        assert answer.status_code == 201, answer.text
        digests.append(answer.json()["version"])
    assert cluster.post(f"{ADAPTERS}/survivor/pin", "admin", {}).status_code == 200
    yield digests
    assert cluster.delete(f"{ADAPTERS}/survivor?force=true", "admin").status_code == 200


def names(cluster: LocalCluster) -> dict[str, object] | None:
    """Return everything registered but who holds it, or None if no front answers.

    When the configured folder was read is not part of it: each process reads it at its start.
    """
    apart = ("residency", "adding", "added_at")
    try:
        answer = cluster.get(ADAPTERS, "admin")
    except httpx2.HTTPError:
        return None
    if answer.status_code != 200:
        return None
    return {
        f"{card['owner']}/{card['name']}": {
            key: value for key, value in card.items() if key not in apart
        }
        for card in answer.json()["data"]
    }


def check(cluster: LocalCluster, maker: SignatureMaker, before: object, digest: str) -> None:
    wait_for("everything is registered", lambda: names(cluster) == before, 30)
    wait_for("replicas", lambda: cluster.ready_replicas() == 2, 120)

    def served() -> bool:
        try:
            answer = cluster.complete(
                "acme", "survivor", "Once upon a time", max_tokens=TOKENS, ignore_eos=True
            )
        except httpx2.HTTPError:
            return False  # the front is not back yet
        if answer.status_code != 200:
            return False
        assert answer.json()["choices"][0]["text"] == maker.signatures[1].text * TOKENS
        assert answer.headers["x-braid-adapters"] == f"survivor@{digest};w=1"
        return True

    wait_for("it is served", served, 60)


def kill(title: str, *, actor: bool) -> Callable[[LocalCluster], None]:
    def run(cluster: LocalCluster) -> None:
        found = cluster.actors(title) if actor else cluster.processes(title)
        found[0].kill()
        found[0].wait(10)

    return run


def forget(cluster: LocalCluster) -> None:
    """Empty the server, as if it had lost its file, but only when the journal has been written."""
    journals = list((cluster.state.root / "adapters").glob(".registry-*.json"))
    assert len(journals) == 1

    def written() -> bool:
        kept = json.loads(journals[0].read_bytes())["names"]
        return any(name["pinned"] and len(name["history"]) == 2 for name in kept)

    wait_for("the journal", written, 20)
    with redis.Redis.from_url(cluster.redis_url) as client:
        client.flushall()


@pytest.mark.parametrize(
    "disaster",
    [
        pytest.param(kill(FRONT, actor=True), id="front"),
        pytest.param(kill(CONTROLLER, actor=True), id="controller"),
        pytest.param(kill(REPLICA, actor=True), id="replica"),
        pytest.param(kill(VALKEY, actor=False), id="valkey"),
        pytest.param(forget, id="valkey-without-its-file"),
    ],
)
def test_nothing_registered_is_lost(
    cluster: LocalCluster,
    maker: SignatureMaker,
    registered: list[str],
    disaster: Callable[[LocalCluster], None],
) -> None:
    before = names(cluster)
    assert before is not None
    disaster(cluster)
    check(cluster, maker, before, registered[1])
    answer = cluster.post(f"{ADAPTERS}/survivor/rollback", "admin", {})
    assert answer.json()["version"] == registered[0]
    answer = cluster.post(f"{ADAPTERS}/survivor/rollback", "admin", {})
    assert answer.status_code == 409, "there is nothing before"
