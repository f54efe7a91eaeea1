"""The examples that ask a server, as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testing.local_cluster import LocalCluster

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

ROOT = Path(__file__).parents[2]


def run(cluster: LocalCluster, *words: str, **environment: str) -> str:
    done = subprocess.run(
        words,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "BRAID_URL": cluster.url,
            "BRAID_API_KEY": cluster.keys["acme"],
            "BRAID_ADMIN_KEY": cluster.keys["admin"],
            **environment,
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(cluster: LocalCluster, name: str, *words: str) -> str:
    return run(cluster, sys.executable, f"examples/{name}", *words)


def test_ask(cluster: LocalCluster) -> None:
    answer, _, adapters = python(cluster, "ask.py").strip().rpartition("\n")
    assert answer.startswith("SELECT")
    assert adapters.startswith("adapters: sql@")


def test_stream(cluster: LocalCluster) -> None:
    text, _, tokens = python(cluster, "stream.py").strip().rpartition("\n")
    assert text
    assert int(tokens.removesuffix(" tokens")) > 1


def test_mix(cluster: LocalCluster) -> None:
    said = python(cluster, "mix.py", "sql=0.7", "json=-0.25", "List all customers")
    assert "sql@" in said
    assert "w=-0.25" in said


def test_an_adapter_is_added_asked_and_removed(cluster: LocalCluster) -> None:
    said = python(cluster, "add_adapter.py", "example-sql", "demo/adapters/sql")
    assert said.startswith("example-sql is served by every replica, version ")
    assert said.strip().endswith("example-sql is removed")
    assert cluster.get("/admin/v1/adapters/example-sql", "admin").status_code == 404


def test_training_to_answers(cluster: LocalCluster) -> None:
    run(cluster, "bash", "examples/train_and_serve.sh", STEPS="2")
    assert cluster.get("/admin/v1/adapters/days", "admin").status_code == 404
