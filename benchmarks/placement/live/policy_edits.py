"""A live cluster whose policy file a measurement rewrites."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.adapters.base_models import base_model
from benchmarks.adapters.proof_cluster import start_proof_cluster
from cluster.tenancy.quickstart import ADMIN_TENANT
from testing.local_cluster import LocalCluster

PAUSE_S = 0.02
TIMEOUT_S = 180.0


@dataclass
class EditedCluster:
    """The cluster and the file that its controller follows."""

    cluster: LocalCluster
    policy: Path

    @classmethod
    def start(cls, folder: Path, base: str, policy: dict[str, Any]) -> "EditedCluster":
        """Start it with one replica."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "policy.json"
        path.write_text(json.dumps(policy))
        cluster = start_proof_cluster(
            folder / "state",
            base_model(base, folder / "base").served,
            replicas=1,
            engine={"max_model_len": 256, "threads": 1},
            controller={"policy_file": path},
        )
        return cls(cluster, path)

    def edit(self, policy: dict[str, Any]) -> float:
        """Replace the policy; returns the moment, by ``time.perf_counter``."""
        fresh = self.policy.with_suffix(".new")
        fresh.write_text(json.dumps(policy))
        moment = time.perf_counter()
        fresh.replace(self.policy)
        return moment

    def serve(self) -> dict[str, Any]:
        """Read Serve's counts, as the controller knows them."""
        answer = self.cluster.get("/admin/v1/placement", ADMIN_TENANT).json()
        found: dict[str, Any] = answer.get("serve", {})
        return found

    def wait(self, what: str, probe: Callable[[], bool]) -> float:
        """Wait until ``probe`` holds; returns the moment, by ``time.perf_counter``.

        Raises:
            AssertionError: it did not within three minutes.
        """
        deadline = time.perf_counter() + TIMEOUT_S
        while not probe():
            assert time.perf_counter() < deadline, f"{what}: not within {TIMEOUT_S:g} s"
            time.sleep(PAUSE_S)
        return time.perf_counter()
