"""The cluster of the proofs: `braid up`'s own, without the demo, and what an administrator asks."""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.soak.local_cluster import AT_REST, Metrics
from cluster.config import AppConfig
from cluster.tenancy.quickstart import ADMIN_TENANT, write_demo_tenants
from deployments.local import lifecycle
from deployments.local.local_state import StateDir
from deployments.local.valkey import free_port

ADAPTERS = "/admin/v1/adapters"
SOURCES = "sources"
"""In the state folder: adapters.source_dir."""
STORE = "adapters"
"""In the state folder: adapters.store_dir."""
TIMEOUT_S = 180.0
TIERS = ("device", "host", "disk")
REPORTED_S = 1.5
"""After which replicas have said what they counted and hold."""


class Refused(Exception):
    """An administrator's request was answered with an error."""

    def __init__(self, what: str, status: int, body: Mapping[str, Any]) -> None:
        error = body.get("error", {})
        self.status = status
        self.code: str = error.get("code", "")
        super().__init__(f"{what}: {status} {self.code}: {error.get('message', body)}")


@dataclass(frozen=True)
class ProofCluster:
    """A running cluster and how to talk to it."""

    state: StateDir
    running: lifecycle.RunningCluster
    config: AppConfig
    keys: Mapping[str, str]

    @classmethod
    def start(
        cls,
        folder: Path,
        model: Path | str,
        *,
        replicas: int = 2,
        rights: Mapping[str, Sequence[str]] | None = None,
        **fields: Mapping[str, Any],
    ) -> "ProofCluster":
        """Start it and wait until every replica takes requests; ``fields`` are of ``AppConfig``.

        Raises:
            StartFailed: it did not come up.
        """
        state = StateDir.open(folder.resolve())
        sources = state.root / SOURCES
        sources.mkdir(exist_ok=True)
        sections: dict[str, Mapping[str, Any]] = {
            "front": {"port": free_port()},
            "replica": {"replicas": replicas},
            "engine": {"threads": lifecycle.default_threads(replicas)},
            "adapters": {"source_dir": sources},
        }
        for name, values in fields.items():
            sections[name] = {**sections.get(name, {}), **values}
        config = AppConfig.model_validate(
            {"model": str(model), "tenants_file": state.tenants, **sections}
        )
        keys = write_demo_tenants(state.tenants, state.keys, rights or {}, secrets.token_bytes)
        running = lifecycle.start(
            state, config, lambda phase: print(f"  {phase}", flush=True), replicas=replicas
        )
        return cls(state, running, config, keys)

    def stop(self) -> list[int]:
        """End it; the processes that had to be killed, usually none."""
        return lifecycle.stop(self.state) or []

    def client(self, tenant: str = ADMIN_TENANT) -> httpx2.AsyncClient:
        """As a tenant; close it."""
        return httpx2.AsyncClient(
            base_url=self.running.url,
            headers={"authorization": f"Bearer {self.keys[tenant]}"},
            timeout=TIMEOUT_S,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
        )

    @property
    def redis_url(self) -> str:
        """Of the embedded server."""
        return self.state.redis_url.read_text().strip()

    @property
    def redis_port(self) -> int:
        """Of the embedded server."""
        return int(self.redis_url.rsplit(":", 1)[1].split("/")[0])

    @property
    def store(self) -> Path:
        """Where added adapters are kept."""
        return self.state.root / STORE

    @property
    def sources(self) -> Path:
        """Folder under which adapters to be added may lie."""
        return self.state.root / SOURCES

    def stored(self) -> list[str]:
        """Everything in the store but its upper folders, which stay once made, and the
        registry's own copy."""
        if not self.store.is_dir():
            return []
        return sorted(
            str(path.relative_to(self.store))
            for path in self.store.rglob("*")
            if path.parent != self.store
        )


class Admin:
    """An administrator's requests; each raises ``Refused`` on an error."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def upload(self, name: str, archive: bytes, **query: str) -> str:
        """Add an archive; its version."""
        answer = await self._client.post(
            ADAPTERS,
            params={"name": name, "grants": "*", **query},
            content=archive,
            headers={"content-type": "application/x-tar"},
        )
        return str(_body(f"add {name}", answer)["version"])

    async def add_folder(self, name: str, folder: str, **fields: Any) -> str:
        """Add a folder under the server's source folder; its version."""
        body = {"name": name, "grants": ["*"], "source": {"folder": folder}, **fields}
        answer = await self._client.post(ADAPTERS, json=body)
        return str(_body(f"add {name}", answer)["version"])

    async def switch(self, name: str, version: str, **fields: Any) -> None:
        """Point a name, old or new, to a version."""
        body = {"version": version, "replace": True, "grants": ["*"], **fields}
        _body(f"alias {name}", await self._client.post(f"{ADAPTERS}/{name}/alias", json=body))

    async def pin(self, name: str, pinned: bool = True) -> None:
        """Keep a name on every replica, or no longer."""
        body = {"pinned": pinned}
        _body(f"pin {name}", await self._client.post(f"{ADAPTERS}/{name}/pin", json=body))

    async def roll_back(self, name: str) -> str:
        """Back to what was before; its version."""
        answer = await self._client.post(f"{ADAPTERS}/{name}/rollback", json={})
        return str(_body(f"rollback {name}", answer)["version"])

    async def remove(self, name: str, wait_s: float = 30.0) -> bool:
        """Remove a name; whether its memory was free within ``wait_s``."""
        answer = await self._client.delete(f"{ADAPTERS}/{name}", params={"wait_s": str(wait_s)})
        _body(f"rm {name}", answer)
        return answer.status_code == 200

    async def listed(self) -> dict[str, Any]:
        """``GET /admin/v1/adapters``."""
        return _body("list", await self._client.get(ADAPTERS))

    async def residency(self) -> list[dict[str, Any]]:
        """What each replica holds."""
        answer = await self._client.get("/admin/v1/residency")
        return list(_body("residency", answer)["replicas"])

    async def metrics(self) -> Metrics:
        """Everything of this moment."""
        return Metrics((await self._client.get("/metrics")).text)

    async def hits(self) -> Counter[str]:
        """Requests by the tier in which they found their adapter, as the replicas count."""
        await asyncio.sleep(REPORTED_S)
        metrics = await self.metrics()
        return Counter(
            {tier: int(metrics.total("braid_adapter_hits_total", tier=tier)) for tier in TIERS}
        )

    async def broken_books(self, replicas: int) -> list[str]:
        """What /admin/v1/integrity says is wrong."""
        answer = await self._client.get("/admin/v1/integrity")
        books = _body("integrity", answer)["replicas"]
        found = [f"integrity of {name}: {what}" for name, what in books.items() if what]
        if len(books) != replicas:
            found.append(f"{len(books)} replicas answer, expected {replicas}")
        return found

    async def unrest(self, timeout_s: float) -> list[str]:
        """Gauges that are not 0 at rest, asked again until ``timeout_s`` is over."""
        deadline = time.monotonic() + timeout_s
        while True:
            metrics = await self.metrics()
            found = [f"{name} is {value:g}" for name in AT_REST if (value := metrics.total(name))]
            if not found or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.25)

    async def left(self, timeout_s: float) -> list[str]:
        """Names and versions that are still registered or resident after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while True:
            listed, residency = await self.listed(), await self.residency()
            found = [f"name {card['name']}" for card in listed["data"]]
            found += [
                f"version {card['version']} ({card['state']})" for card in listed["other_versions"]
            ]
            found += [
                f"{replica['replica_id']} holds {held['digest']}"
                for replica in residency
                for held in (*replica["resident"], *replica["on_host"])
            ]
            if not found or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.25)


def _body(what: str, answer: httpx2.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    if answer.status_code >= 400:
        raise Refused(what, answer.status_code, body)
    return body
