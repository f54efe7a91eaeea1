"""Checks two fronts behind one port: what one receives, the other acts upon."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psutil
import pytest

from cluster.base_model.source import ModelLocation
from cluster.config import AppConfig
from deployments.local.local_state import StateDir
from testing.local_cluster import LocalCluster
from testing.signatures.signature_maker import SignatureMaker, Voice
from testing.waiting import wait_for
from tests.integration.conftest import quickstart

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

ADAPTERS = "/admin/v1/adapters"
FRONT = "Front"
ROUNDS = 6
AT_ONCE = 8
TOKENS = 3
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def twofold(
    base_model: ModelLocation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalCluster]:
    def make_config(state: StateDir, port: int) -> AppConfig:
        config = quickstart(state, port, front={"port": port, "replicas": 2})
        assert config.controller.policy_file is not None
        config.controller.policy_file.write_text("replicas: {min: 1, max: 1}\n")
        return config.model_copy(
            update={"replica": config.replica.model_copy(update={"replicas": 1})}
        )

    cluster = LocalCluster.start(tmp_path_factory.mktemp("state"), make_config)
    try:
        wait_for("two fronts", lambda: len(fronts(cluster)) == 2, 60)
        yield cluster
    finally:
        cluster.stop()
    assert cluster.leftover == []


def fronts(cluster: LocalCluster) -> list[psutil.Process]:
    """Return the processes that listen on the cluster's port."""
    return cluster.listening(FRONT, cluster.port)


@pytest.fixture(scope="module")
def maker(base_model: ModelLocation) -> SignatureMaker:
    return SignatureMaker(base_model.path, 2 * ROUNDS)


def words(maker: SignatureMaker, number: int) -> str:
    """Return what the reference says with an archive's adapter."""
    return maker.answer([(maker.signatures[number], Voice(), 1.0)], PROMPT, TOKENS)


def put(cluster: LocalCluster, name: str, archive: bytes, **query: str) -> str:
    answer = cluster.upload(ADAPTERS, "admin", archive, name=name, grants="acme", **query)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["version"])


def ask(cluster: LocalCluster, name: str) -> tuple[str, str]:
    """Return the text, and the version that is said to have made it."""
    answer = cluster.complete("acme", name, PROMPT, max_tokens=TOKENS, ignore_eos=True)
    assert answer.status_code == 200, answer.text
    adapter = answer.headers["x-braid-adapters"]
    return answer.json()["choices"][0]["text"], adapter.removeprefix(f"{name}@").removesuffix(
        ";w=1"
    )


def ask_many(cluster: LocalCluster, name: str) -> set[tuple[str, str]]:
    """Ask many times at once, each over a connection of its own, which either front may take."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return set(pool.map(partial(ask, cluster), [name] * AT_ONCE))


def test_what_one_front_is_told_the_other_acts_upon(
    twofold: LocalCluster, maker: SignatureMaker, archives: list[bytes]
) -> None:
    for number in range(ROUNDS):
        name, first, second = f"name-{number}", 2 * number, 2 * number + 1
        old = (words(maker, first), put(twofold, name, archives[first]))
        assert ask_many(twofold, name) == {old}, "a new name is known to both at once"
        new = (words(maker, second), put(twofold, name, archives[second], expected=old[1]))
        assert new[0] != old[0]
        wait_for("both switched", lambda n=name, w=new: ask_many(twofold, n) == {w}, 5)
        answer = twofold.delete(f"{ADAPTERS}/{name}", "admin")
        assert (answer.status_code, answer.json()["waiting"]) == (200, []), answer.text
        refused = [twofold.complete("acme", name, PROMPT).status_code for _ in range(AT_ONCE)]
        assert set(refused) == {404}
    served = {twofold.metric("braid_request_seconds_sum") for _ in range(40)}
    assert len(served) == 2
    assert min(served) > 0, "both were meant to take requests"


def test_one_front_goes_on_when_the_other_dies(
    twofold: LocalCluster, maker: SignatureMaker, archives: list[bytes]
) -> None:
    digest = put(twofold, "staying", archives[0])
    victim, other = fronts(twofold)
    victim.kill()
    victim.wait(10)
    expected = {(words(maker, 0), digest)}
    assert ask_many(twofold, "staying") == expected
    wait_for("a new front", lambda: len(fronts(twofold)) == 2, 90, pause_s=0.5)
    assert other.is_running()
    assert ask_many(twofold, "staying") == expected
    assert twofold.delete(f"{ADAPTERS}/staying", "admin").status_code == 200
