"""One live cluster for all integration tests: the quickstart, as a user gets it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.base_model.source import ModelLocation, resolve_model
from cluster.config import AppConfig, RouterConfig, Settings, cache_folder
from deployments.local.local_state import StateDir
from deployments.local.quickstart import DEMO_ROUTER, with_demo
from testing.local_cluster import LocalCluster
from testing.signatures.signature_maker import SignatureMaker, tar_of
from testing.waiting import wait_for

REPLICAS = 2


def quickstart(state: StateDir, port: int, **fields: object) -> AppConfig:
    """Return what `braid up` runs, with a policy that reacts within a test's patience."""
    policy = state.root / "policy.yaml"
    policy.write_text(f"replicas: {{min: {REPLICAS}, max: {REPLICAS}}}\n")
    sources = state.root / "sources"
    sources.mkdir(exist_ok=True)
    config = AppConfig.model_validate(
        {
            "adapters": {"source_dir": sources},
            "front": {"port": port},
            "replica": {"replicas": REPLICAS},
            "engine": {"threads": 1},
            "controller": {"policy_file": policy, "interval_s": 0.5},
            **fields,
        }
    )
    config = with_demo(config, state)
    sentences = RouterConfig(
        name="sentences",
        path=DEMO_ROUTER,
        options={"reroute": "sentence", "min_sentence_characters": 16, "prompt_characters": 8},
    )
    return config.model_copy(update={"routers": (*config.routers, sentences)})


@pytest.fixture(scope="session")
def base_model() -> ModelLocation:
    """The quickstart's base model; fetched at first use."""
    return resolve_model("HuggingFaceTB/SmolLM2-135M-Instruct", cache_folder(Settings()))


@pytest.fixture
def archives(maker: SignatureMaker, tmp_path: Path) -> list[bytes]:
    """An adapter for each of the signatures that a module's ``maker`` has, as it is uploaded."""
    return [
        tar_of(maker.write(tmp_path / str(number), signature))
        for number, signature in enumerate(maker.signatures)
    ]


@pytest.fixture(scope="session")
def live(
    base_model: ModelLocation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalCluster]:
    """The session's cluster; every pool must be whole when the session ends."""
    folder: Path = tmp_path_factory.mktemp("state")
    cluster = LocalCluster.start(folder, quickstart)
    try:
        yield cluster
    finally:
        cluster.stop()
    assert cluster.leftover == [], "processes were left behind"


@pytest.fixture
def cluster(live: LocalCluster) -> Iterator[LocalCluster]:
    """The cluster at rest: no test leaves a request, a lease or a block behind."""
    yield live
    wait_for("replicas back", lambda: live.ready_replicas() == REPLICAS, 60)
    # Replicas report with a delay: a report from before the test's last request may still stand.
    live.wait_until_at_rest(20)
    answer = live.get("/admin/v1/integrity", "admin").json()
    assert (answer["silent"], answer["failures"]) == ([], [])
    books = answer["replicas"]
    assert len(books) == REPLICAS
    assert set(books.values()) == {None}
    assert live.metric("braid_engine_integrity_failures_total") == 0
