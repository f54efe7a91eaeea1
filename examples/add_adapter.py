"""Adds a PEFT folder to a running cluster, asks it, and removes it again.

    python examples/add_adapter.py my-sql demo/adapters/sql

BRAID_URL names the server, BRAID_ADMIN_KEY an administrator's key.
"""

import io
import os
import sys
import tarfile

import httpx2


def pack(folder: str) -> bytes:
    """Pack the folder as the server takes it: a tar with the files at its top."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(folder, arcname=".")
    return packed.getvalue()


def main(name: str = "my-sql", folder: str = "demo/adapters/sql") -> None:
    """Add it for everyone, complete a prompt with it, remove it."""
    url = os.environ.get("BRAID_URL", "http://127.0.0.1:8000")
    headers = {"authorization": f"Bearer {os.environ['BRAID_ADMIN_KEY']}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=120) as client:
        added = client.post(
            "/admin/v1/adapters",
            params={"name": name, "grants": "*"},
            content=pack(folder),
            headers={"content-type": "application/x-tar"},
        )
        added.raise_for_status()
        print(f"{name} is served by every replica, version {added.json()['version'][:12]}")
        body = {"model": name, "prompt": "Count the orders of today", "max_tokens": 24}
        answer = client.post("/v1/completions", json=body)
        answer.raise_for_status()
        print(answer.json()["choices"][0]["text"])
        removed = client.delete(f"/admin/v1/adapters/{name}")
        removed.raise_for_status()
        print(f"{name} is removed")


if __name__ == "__main__":
    main(*sys.argv[1:])
