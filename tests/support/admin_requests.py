"""Holds the requests that tests of the administrator's routes make again and again."""

from typing import Any

import httpx2

from tests.support.http_front import HttpFront

ADAPTERS = "/admin/v1/adapters"
NO_VERSION = "0" * 64
TAR = {"content-type": "application/x-tar"}


async def add_adapter(
    front: HttpFront, name: str, source: str = "fresh", **fields: Any
) -> httpx2.Response:
    """Add a folder of the sources under a name."""
    body = {"name": name, "source": {"folder": source}, **fields}
    return await front.post("/admin/v1/adapters", body, "root")


async def names(front: HttpFront) -> list[str]:
    """List the names of all adapters that are served."""
    listed = (await front.get("/admin/v1/adapters", "root")).json()
    return [card["name"] for card in listed["data"]]


async def version(front: HttpFront, name: str) -> str:
    """Read the version that a name points to."""
    card = (await front.get(f"/admin/v1/adapters/{name}", "root")).json()
    return str(card["version"])
