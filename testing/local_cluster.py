"""A whole cluster as `braid up` starts it, for tests and measurements that speak HTTP to it."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
import redis

from cluster.config import AppConfig
from cluster.tenancy.quickstart import ADMIN_TENANT
from deployments.local import lifecycle
from deployments.local.local_state import StateDir
from deployments.local.valkey import free_port
from testing.at_rest import unrest
from testing.exposition import Metrics

FRONT = "Front"
REPLICA = "Replica"
CONTROLLER = "Controller"
VALKEY = "valkey-server"
PROBE = "braid-testing"
TIMEOUT_S = 180.0

ConfigMaker = Callable[[StateDir, int], AppConfig]
"""Makes the configuration for a state folder and a free port; may write tenants and keys there."""


def show_phase(phase: str) -> None:
    """Print a phase of a start."""
    print(f"  {phase}", flush=True)


@dataclass
class LocalCluster:
    """One supervisor process and all that belongs to it."""

    state: StateDir
    config: AppConfig
    running: lifecycle.RunningCluster
    keys: Mapping[str, str]  # by tenant
    leftover: list[int] = field(default_factory=list)
    """After ``stop``: the processes that had to be killed, usually none."""

    @classmethod
    def start(
        cls,
        folder: Path,
        make_config: ConfigMaker,
        on_phase: Callable[[str], None] = lambda _: None,
    ) -> "LocalCluster":
        """Start a cluster and wait until every replica takes requests.

        Raises:
            StartFailed: the cluster ended, or was not ready in time.
        """
        state = StateDir.open(folder.resolve())
        config = make_config(state, free_port())
        running = lifecycle.start(state, config, on_phase, replicas=lambda: config.replica.replicas)
        keys = json.loads(state.keys.read_text()) if state.keys.exists() else {}
        return cls(state, config, running, keys)

    def stop(self) -> list[int]:
        """End the cluster as `braid down` does; returns the processes that had to be killed."""
        self.leftover = lifecycle.stop(self.state) or []
        return self.leftover

    @property
    def port(self) -> int:
        """The front's port."""
        return self.running.port

    @property
    def url(self) -> str:
        """Address for clients, without ``/v1``."""
        return self.running.url

    @property
    def redis_url(self) -> str:
        """Address of the embedded store, with its password."""
        return self.state.redis_url.read_text().strip()

    @property
    def redis_port(self) -> int:
        """Port of the embedded store."""
        port = urlsplit(self.redis_url).port
        assert port is not None
        return port

    def store_clients(self) -> dict[str, int]:
        """Count the connections to the store by their pool's name, without this one."""
        with redis.Redis.from_url(self.redis_url, client_name=PROBE) as client:
            names = Counter(str(item["name"]) for item in client.client_list())
        del names[PROBE]
        return dict(sorted(names.items()))

    def headers(self, tenant: str) -> dict[str, str]:
        """Make the headers of a tenant's request."""
        return {"authorization": f"Bearer {self.keys[tenant]}"}

    def client(
        self, tenant: str = ADMIN_TENANT, timeout_s: float = TIMEOUT_S
    ) -> httpx2.AsyncClient:
        """Make a tenant's client for any number of requests at once; close it."""
        return httpx2.AsyncClient(
            base_url=self.url,
            headers=self.headers(tenant),
            timeout=timeout_s,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
        )

    def get(self, path: str, tenant: str | None = None, timeout_s: float = 30.0) -> httpx2.Response:
        """Send a GET; without a tenant it has no key."""
        headers = self.headers(tenant) if tenant else {}
        return httpx2.get(self.url + path, headers=headers, timeout=timeout_s)

    def post(self, path: str, tenant: str, body: dict[str, Any]) -> httpx2.Response:
        """Send a JSON body."""
        return httpx2.post(self.url + path, headers=self.headers(tenant), json=body, timeout=120)

    def put(self, path: str, tenant: str, body: dict[str, Any]) -> httpx2.Response:
        """Send a JSON body that takes the place of what is there."""
        return httpx2.put(self.url + path, headers=self.headers(tenant), json=body, timeout=120)

    def delete(self, path: str, tenant: str) -> httpx2.Response:
        """Send a DELETE."""
        return httpx2.delete(self.url + path, headers=self.headers(tenant), timeout=120)

    def upload(self, path: str, tenant: str, archive: bytes, **query: str) -> httpx2.Response:
        """Send an archive."""
        headers = {**self.headers(tenant), "content-type": "application/x-tar"}
        return httpx2.post(
            self.url + path, headers=headers, params=query, content=archive, timeout=120
        )

    def complete(self, tenant: str, model: str, prompt: str, **fields: Any) -> httpx2.Response:
        """Ask for a greedy completion of 16 tokens."""
        body = {"model": model, "prompt": prompt, "max_tokens": 16, "temperature": 0, **fields}
        return self.post("/v1/completions", tenant, body)

    def metrics(self) -> Metrics:
        """Read every metric."""
        return Metrics(self.get("/metrics", ADMIN_TENANT).text)

    def metric(self, name: str, **labels: str) -> float:
        """Sum a metric's samples that have these labels."""
        return self.metrics().total(name, **labels)

    def wait_until_at_rest(self, timeout_s: float) -> None:
        """Wait until nothing is answered and every lease and block is back.

        Raises:
            AssertionError: the cluster was not at rest in time; the message has each gauge.
        """
        deadline = time.monotonic() + timeout_s
        while found := unrest(self.metrics()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not at rest within {timeout_s:g} s: {'; '.join(found)}")
            time.sleep(0.1)

    def replicas(self) -> list[dict[str, Any]]:
        """Read the last report of every replica."""
        answer = self.get("/admin/v1/residency", ADMIN_TENANT)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["replicas"])

    def ready_replicas(self) -> int:
        """Count the replicas that the front can reach; 0 while it does not answer."""
        return lifecycle.ready_replicas(self.running)

    def phase(self) -> str:
        """Read the supervisor's phase."""
        return str(json.loads(self.state.status.read_text())["phase"])

    def actors(self, deployment: str) -> list[psutil.Process]:
        """List a deployment's processes; Ray names them in one of two ways."""
        return [
            *self.processes(f"braid#{deployment}#"),
            *self.processes(f"ServeReplica:braid:{deployment}"),
        ]

    def process_of(self, replica: dict[str, Any]) -> psutil.Process:
        """Find a replica's process: the one that listens at its address."""
        port = int(replica["address"].rsplit(":", 1)[1])
        found = self.listening(REPLICA, port)
        assert len(found) == 1, f"{len(found)} replicas listen on {port}"
        return found[0]

    def listening(self, deployment: str, port: int) -> list[psutil.Process]:
        """List a deployment's processes that take connections at ``port``."""
        found = []
        for process in self.actors(deployment):
            try:
                sockets = process.net_connections("tcp")
            except psutil.Error:
                continue
            if any(s.status == psutil.CONN_LISTEN and s.laddr.port == port for s in sockets):
                found.append(process)
        return found

    def processes(self, title: str) -> list[psutil.Process]:
        """List the cluster's processes whose command line contains ``title``."""
        found = []
        for process in psutil.Process(self.running.pid).children(recursive=True):
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found
