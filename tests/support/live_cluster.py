"""A whole cluster as `braid up` starts it, for tests that speak HTTP to it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import psutil

from cluster.config import AppConfig
from deployments.local.local_state import StateDir, write_run
from deployments.local.valkey import free_port

T = TypeVar("T")

START_TIMEOUT_S = 240.0
REPLICA = "Replica"
CONTROLLER = "Controller"
VALKEY = "valkey-server"


def wait_for(what: str, probe: Callable[[], T | None], timeout_s: float, pause_s: float = 0.1) -> T:
    """The first answer of ``probe`` that is neither None nor False."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:g} s; last answer: {answer!r}")
        time.sleep(pause_s)


@dataclass
class LiveCluster:
    """One supervisor process and all that belongs to it."""

    state: StateDir
    port: int
    process: subprocess.Popen[bytes]
    keys: dict[str, str] = field(default_factory=dict)

    @classmethod
    def start(
        cls, folder: Path, make_config: Callable[[StateDir, int], AppConfig]
    ) -> "LiveCluster":
        """Start a cluster and wait until every replica takes requests."""
        state = StateDir.open(folder)
        port = free_port()
        config = make_config(state, port)
        write_run(state, config)
        with state.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "deployments.local.supervisor", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        cluster = cls(state, port, process)
        try:
            cluster._wait_until_ready(config.replica.replicas)
        except BaseException:
            cluster.stop()
            raise
        if state.keys.exists():
            cluster.keys = json.loads(state.keys.read_text())
        return cluster

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def redis_url(self) -> str:
        return self.state.redis_url.read_text().strip()

    def headers(self, tenant: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[tenant]}"}

    def get(self, path: str, tenant: str | None = None) -> httpx2.Response:
        headers = self.headers(tenant) if tenant else {}
        return httpx2.get(self.url + path, headers=headers, timeout=30)

    def post(self, path: str, tenant: str, body: dict[str, Any]) -> httpx2.Response:
        return httpx2.post(self.url + path, headers=self.headers(tenant), json=body, timeout=120)

    def delete(self, path: str, tenant: str) -> httpx2.Response:
        return httpx2.delete(self.url + path, headers=self.headers(tenant), timeout=120)

    def upload(self, path: str, tenant: str, archive: bytes, **query: str) -> httpx2.Response:
        headers = {**self.headers(tenant), "content-type": "application/x-tar"}
        return httpx2.post(
            self.url + path, headers=headers, params=query, content=archive, timeout=120
        )

    def complete(self, tenant: str, model: str, prompt: str, **fields: Any) -> httpx2.Response:
        body = {"model": model, "prompt": prompt, "max_tokens": 16, "temperature": 0, **fields}
        return self.post("/v1/completions", tenant, body)

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples that have these labels."""
        total = 0.0
        for line in self.get("/metrics", "admin").text.splitlines():
            if line.startswith("#") or not (line.startswith((f"{name} ", f"{name}{{"))):
                continue
            if all(f'{key}="{value}"' in line for key, value in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def actors(self, deployment: str) -> list[psutil.Process]:
        """Ray names an actor's process by its deployment, in one of two ways."""
        return [
            *self.processes(f"braid#{deployment}#"),
            *self.processes(f"ServeReplica:braid:{deployment}"),
        ]

    def replicas(self) -> list[dict[str, Any]]:
        """What every replica last said of itself."""
        answer = self.get("/admin/v1/residency", "admin")
        assert answer.status_code == 200, answer.text
        return list(answer.json()["replicas"])

    def process_of(self, replica: dict[str, Any]) -> psutil.Process:
        """A replica's process: the one that listens at its address."""
        port = int(replica["address"].rsplit(":", 1)[1])
        found = self.listening(REPLICA, port)
        assert len(found) == 1, f"{len(found)} replicas listen on {port}"
        return found[0]

    def listening(self, deployment: str, port: int) -> list[psutil.Process]:
        """A deployment's processes that take connections at ``port``."""
        found = []
        for process in self.actors(deployment):
            try:
                sockets = process.net_connections("tcp")
            except psutil.NoSuchProcess:
                continue
            if any(s.status == psutil.CONN_LISTEN and s.laddr.port == port for s in sockets):
                found.append(process)
        return found

    def processes(self, title: str) -> list[psutil.Process]:
        """Processes of this cluster whose command line contains ``title``."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def phase(self) -> str:
        """What the supervisor says it is doing."""
        return str(json.loads(self.state.status.read_text())["phase"])

    def ready_replicas(self) -> int:
        try:
            answer = self.get("/ready")
        except httpx2.HTTPError:
            return 0
        return int(answer.json()["replicas"]) if answer.status_code == 200 else 0

    def stop(self) -> None:
        """End it as `braid down` does; nothing may be left."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            process.kill()
        self.leftover = [process.pid for process in alive]

    def _wait_until_ready(self, replicas: int) -> None:
        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the supervisor ended:\n{self.state.log.read_text()[-4000:]}")
            return self.ready_replicas() >= replicas

        wait_for("cluster ready", ready, START_TIMEOUT_S, pause_s=0.5)
