"""An administrator's requests about adapters."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx2

from deployments.cli.adapters.version_names import ROUTES, SWITCH_PATH
from testing.at_rest import broken_books, unrest
from testing.exposition import Metrics

TIERS = ("device", "host", "disk")
REPORTED_S = 1.5
"""Within this time replicas report what they have counted and loaded."""


class Refused(Exception):
    """An administrator's request was answered with an error."""

    def __init__(self, what: str, status: int, body: Mapping[str, Any]) -> None:
        error = body.get("error", {})
        self.status = status
        self.code: str = error.get("code", "")
        super().__init__(f"{what}: {status} {self.code}: {error.get('message', body)}")


class Admin:
    """An administrator's requests; each raises ``Refused`` on an error."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def upload(self, name: str, archive: bytes, **query: str) -> str:
        """Add an archive; returns its version."""
        answer = await self._client.post(
            ROUTES,
            params={"name": name, "grants": "*", **query},
            content=archive,
            headers={"content-type": "application/x-tar"},
        )
        return str(_body(f"add {name}", answer)["version"])

    async def add_folder(self, name: str, folder: str, **fields: Any) -> str:
        """Add a folder under the server's source folder; returns its version."""
        body = {"name": name, "grants": ["*"], "source": {"folder": folder}, **fields}
        answer = await self._client.post(ROUTES, json=body)
        return str(_body(f"add {name}", answer)["version"])

    async def switch(self, name: str, version: str, **fields: Any) -> None:
        """Switch a name, old or new, to a version."""
        body = {"version": version, "replace": True, "grants": ["*"], **fields}
        path = f"{ROUTES}/{name}/{SWITCH_PATH}"
        _body(f"switch {name}", await self._client.post(path, json=body))

    async def pin(self, name: str, pinned: bool = True) -> None:
        """Pin a name to every replica, or unpin it."""
        body = {"pinned": pinned}
        _body(f"pin {name}", await self._client.post(f"{ROUTES}/{name}/pin", json=body))

    async def roll_back(self, name: str) -> str:
        """Switch a name back to its version before; returns that version."""
        answer = await self._client.post(f"{ROUTES}/{name}/rollback", json={})
        return str(_body(f"rollback {name}", answer)["version"])

    async def remove(self, name: str, wait_s: float = 30.0) -> bool:
        """Remove a name; returns True if its memory was free within ``wait_s``."""
        answer = await self._client.delete(f"{ROUTES}/{name}", params={"wait_s": str(wait_s)})
        _body(f"rm {name}", answer)
        return answer.status_code == 200

    async def listed(self) -> dict[str, Any]:
        """Read ``/admin/v1/adapters``."""
        return _body("list", await self._client.get(ROUTES))

    async def residency(self) -> list[dict[str, Any]]:
        """Read what each replica has loaded."""
        answer = await self._client.get("/admin/v1/residency")
        return list(_body("residency", answer)["replicas"])

    async def metrics(self) -> Metrics:
        """Read every metric."""
        return Metrics((await self._client.get("/metrics")).text)

    async def hits(self) -> Counter[str]:
        """Count requests by the tier in which they found their adapter."""
        await asyncio.sleep(REPORTED_S)
        metrics = await self.metrics()
        return Counter(
            {tier: int(metrics.total("braid_adapter_hits_total", tier=tier)) for tier in TIERS}
        )

    async def broken_books(self, replicas: int) -> list[str]:
        """List the problems that ``/admin/v1/integrity`` names."""
        answer = await self._client.get("/admin/v1/integrity")
        return broken_books(_body("integrity", answer), replicas)

    async def unrest(self, timeout_s: float) -> list[str]:
        """List the gauges that are still not at rest after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = unrest(await self.metrics())
            if not found or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.25)

    async def left(self, timeout_s: float) -> list[str]:
        """List the names and versions still registered or resident after ``timeout_s``."""
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
