"""The cluster under soak: `braid up`'s own, with more adapters than slots and small pools."""

import secrets
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import redis

from benchmarks.engine.adapters import write_adapters
from cluster.base_model.source import resolve_model
from cluster.config import AppConfig, Settings, cache_folder
from cluster.domain.request import Outcome
from cluster.tenancy.quickstart import ADMIN_TENANT, write_demo_tenants
from deployments.local import lifecycle
from deployments.local.local_state import StateDir
from deployments.local.quickstart import DEMO_ADAPTERS, DEMO_RIGHTS, demo_config
from deployments.local.valkey import free_port

PATIENCE = 6
PAUSE_S = 5.0
PROBE = "braid-soak"
AT_REST = (
    "braid_requests_in_flight",
    "braid_replica_running_sequences",
    "braid_replica_queued_requests",
    "braid_replica_adapter_leases",
)
"""Gauges that are 0 while nothing is being answered."""


@dataclass(frozen=True)
class SoakCluster:
    """A running cluster and how to talk to it."""

    state: StateDir
    running: lifecycle.RunningCluster
    config: AppConfig
    keys: Mapping[str, str]
    rights: Mapping[str, tuple[str, ...]]

    @classmethod
    def start(
        cls, folder: Path, *, replicas: int, random_adapters: int, timeout_s: float
    ) -> "SoakCluster":
        """Start it and wait until every replica takes requests."""
        state = StateDir.open(folder.resolve())
        config = demo_config(
            AppConfig.model_validate(
                {
                    "front": {"port": free_port(), "request_timeout_s": timeout_s},
                    "replica": {"replicas": replicas},
                    "engine": {
                        "threads": lifecycle.default_threads(replicas),
                        "kv_blocks": 96,
                        "max_model_len": 1024,
                    },
                    # Bounds that are reached in the warm-up: what fills up later is a leak.
                    "adapters": {"host_bytes": 48 * 2**20},
                    "decisions": {"ttl_s": 240.0, "local_entries": 128},
                }
            ),
            state,
        )
        location = resolve_model(config.model, cache_folder(Settings()))
        adapters = state.root / "adapters"
        aliases = write_adapters(location.path, adapters, random_adapters, rank=8, seed=0)
        shutil.copytree(DEMO_ADAPTERS, adapters, dirs_exist_ok=True)
        config = config.model_copy(update={"adapters_dir": adapters})
        third = len(aliases) // 3
        own = {"acme": aliases[: 2 * third], "globex": aliases[third:]}
        rights = {tenant: (*names, *own[tenant]) for tenant, names in DEMO_RIGHTS.items()}
        keys = write_demo_tenants(state.tenants, state.keys, rights, secrets.token_bytes)
        running = lifecycle.start(
            state, config, lambda phase: print(f"  {phase}", flush=True), replicas=replicas
        )
        return cls(state, running, config, keys, rights)

    def stop(self) -> list[int]:
        """End it; the processes that had to be killed, usually none."""
        return lifecycle.stop(self.state) or []

    def get(self, path: str) -> httpx2.Response:
        """As the administrator, asking again where a busy machine answers late.

        Raises:
            httpx2.HTTPError: no answer.
        """
        headers = {"authorization": f"Bearer {self.keys[ADMIN_TENANT]}"}
        for _ in range(PATIENCE):
            try:
                answer = httpx2.get(self.running.url + path, headers=headers, timeout=60)
                return answer.raise_for_status()
            except httpx2.HTTPError as error:
                failure = error
                time.sleep(PAUSE_S)
        raise failure

    @property
    def store_port(self) -> int:
        """Where the cluster's embedded store listens."""
        port = urlsplit(self._store_url).port
        assert port is not None
        return port

    def store_clients(self) -> dict[str, int]:
        """Connections to the store by the name that their pool gives them, without this one."""
        with redis.Redis.from_url(self._store_url, client_name=PROBE) as client:
            names = Counter(str(item["name"]) for item in client.client_list())
        del names[PROBE]
        return dict(sorted(names.items()))

    @property
    def _store_url(self) -> str:
        return self.state.redis_url.read_text().strip()

    def metrics(self) -> "Metrics":
        """Everything of this moment."""
        return Metrics(self.get("/metrics").text)

    def broken_books(self) -> list[str]:
        """What /admin/v1/integrity says is wrong."""
        answer = self.get("/admin/v1/integrity").json()
        books = answer["replicas"]
        found = [f"integrity of {name}: {what}" for name, what in books.items() if what]
        found += [f"integrity of {name}: no answer" for name in answer["silent"]]
        if len(books) != self.config.replica.replicas:
            found.append(f"{len(books)} replicas answer, expected {self.config.replica.replicas}")
        return found


class Metrics:
    """A parsed exposition."""

    def __init__(self, text: str) -> None:
        self._lines = [line for line in text.splitlines() if not line.startswith("#")]

    def total(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples that have these labels."""
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in self._lines
            if line.startswith((f"{name} ", f"{name}{{"))
            and all(f'{key}="{value}"' in line for key, value in labels.items())
        )

    def outcomes(self) -> Counter[Outcome]:
        """``braid_requests_total`` by outcome."""
        return Counter(
            {item: int(self.total("braid_requests_total", outcome=item)) for item in Outcome}
        )

    def unrest(self) -> list[str]:
        """Gauges that are not what they are at rest."""
        found = [f"{name} is {value:g}" for name in AT_REST if (value := self.total(name)) != 0]
        free = self.total("braid_replica_kv_blocks_free")
        blocks = self.total("braid_replica_kv_blocks")
        if free != blocks or not blocks:
            found.append(f"{free:g} of {blocks:g} KV blocks are free")
        return found
