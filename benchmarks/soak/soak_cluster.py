"""The cluster under soak: `braid up`'s own, with more adapters than slots and small pools."""

import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2

from cluster.adapters.random_adapters import write_adapters
from cluster.base_model.source import resolve_model
from cluster.config import AppConfig, Settings, cache_folder
from cluster.tenancy.quickstart import ADMIN_TENANT, write_demo_tenants
from deployments.local import lifecycle
from deployments.local.local_state import StateDir
from deployments.local.quickstart import DEMO_ADAPTERS, DEMO_RIGHTS, demo_config
from testing.at_rest import broken_books
from testing.exposition import Metrics
from testing.local_cluster import LocalCluster, show_phase

PATIENCE = 6
PAUSE_S = 5.0
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class SoakCluster:
    """A running cluster and the adapters of each tenant."""

    local: LocalCluster
    rights: Mapping[str, tuple[str, ...]]

    @classmethod
    def start(
        cls, folder: Path, *, replicas: int, random_adapters: int, timeout_s: float
    ) -> "SoakCluster":
        """Start a cluster and wait until every replica takes requests.

        Args:
            random_adapters: number of adapters besides the demo's.
            timeout_s: time limit of a request.
        """
        rights: dict[str, tuple[str, ...]] = {}

        def make_config(state: StateDir, port: int) -> AppConfig:
            config = _small_pools(state, port, replicas, timeout_s)
            location = resolve_model(config.model, cache_folder(Settings()))
            adapters = state.root / "adapters"
            aliases = write_adapters(location.path, adapters, random_adapters, rank=8, seed=0)
            shutil.copytree(DEMO_ADAPTERS, adapters, dirs_exist_ok=True)
            third = len(aliases) // 3
            own = {"acme": aliases[: 2 * third], "globex": aliases[third:]}
            rights.update({tenant: (*names, *own[tenant]) for tenant, names in DEMO_RIGHTS.items()})
            write_demo_tenants(state.tenants, state.keys, rights, secrets.token_bytes)
            return config.model_copy(update={"adapters_dir": adapters})

        return cls(LocalCluster.start(folder, make_config, show_phase), rights)

    def metrics(self) -> Metrics:
        """Read every metric."""
        return Metrics(self._get("/metrics").text)

    def broken_books(self) -> list[str]:
        """List the problems that ``/admin/v1/integrity`` names."""
        answer = self._get("/admin/v1/integrity").json()
        return broken_books(answer, self.local.config.replica.replicas)

    def _get(self, path: str) -> httpx2.Response:
        """Ask as the administrator, again if a busy machine answers late.

        Raises:
            httpx2.HTTPError: no answer.
        """
        for _ in range(PATIENCE):
            try:
                return self.local.get(path, ADMIN_TENANT, TIMEOUT_S).raise_for_status()
            except httpx2.HTTPError as error:
                failure = error
                time.sleep(PAUSE_S)
        raise failure


def _small_pools(state: StateDir, port: int, replicas: int, timeout_s: float) -> AppConfig:
    """Make the demo's configuration, with bounds that are reached in the warm-up.

    What fills up later is a leak.
    """
    return demo_config(
        AppConfig.model_validate(
            {
                "front": {"port": port, "request_timeout_s": timeout_s},
                "replica": {"replicas": replicas},
                "engine": {
                    "threads": lifecycle.default_threads(replicas),
                    "kv_blocks": 96,
                    "max_model_len": 1024,
                },
                "adapters": {"host_bytes": 48 * 2**20},
                "decisions": {"ttl_s": 240.0, "local_entries": 128},
            }
        ),
        state,
    )
