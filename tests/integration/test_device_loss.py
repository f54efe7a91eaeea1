"""A replica whose device is lost leaves, and its requests go on; it never answers failures fast.

There is no GPU here: a step of one replica is made to raise what torch raises there, in that
replica's own process and step thread.
"""

import os
from pathlib import Path

import pytest

from cluster.base_model.source import ModelLocation
from testing.local_cluster import LocalCluster
from testing.waiting import wait_for
from tests.integration.conftest import REPLICAS, quickstart
from tests.support.live_stream import LiveStream, replica_processes

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

LONG = 300
FAULT = """
import os, sys, threading, time

def poison():
    while "cluster.engine.factory" not in sys.modules:
        time.sleep(0.05)
    time.sleep(0.5)  # until its imports are done
    import torch
    from cluster.engine.execution.model_runner import ModelRunner
    execute = ModelRunner.execute
    wish = os.path.join(os.path.dirname(__file__), str(os.getpid()))

    def failing(self, plan, seeds):
        if os.path.exists(wish):
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return execute(self, plan, seeds)

    ModelRunner.execute = failing

threading.Thread(target=poison, daemon=True).start()
"""


def test_its_requests_go_on_elsewhere_and_it_is_replaced(
    base_model: ModelLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = tmp_path / "fault"
    fault.mkdir()
    (fault / "sitecustomize.py").write_text(FAULT)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join((str(fault), os.environ.get("PYTHONPATH", "")))
    )
    cluster = LocalCluster.start(tmp_path / "state", quickstart)
    try:
        body = {
            "model": base_model.model_id,
            "prompt": "Once upon a time",
            "max_tokens": LONG,
            "ignore_eos": True,
        }
        expected = cluster.post("/v1/completions", "acme", {**body, "temperature": 0}).json()
        streams = [LiveStream(cluster, "acme", body) for _ in range(6)]
        first = streams[0]
        first.wait_until_reached()
        failing = replica_processes(cluster)[first.replica]
        (fault / str(failing.pid)).touch()
        at = len(first.text)
        for stream in streams:
            stream.join()
        assert {stream.text for stream in streams} == {expected["choices"][0]["text"]}
        assert at < len(first.text), "the answer had ended before its device was lost"
        wait_for("the process ends", lambda: not failing.is_running(), 30)
        wait_for("it is replaced", lambda: cluster.ready_replicas() == REPLICAS, 90)
        assert cluster.metric("braid_requests_total", outcome="failed_engine") == 0
        assert "replica.engine_ended" in cluster.state.cluster_log.read_text()
    finally:
        cluster.stop()
