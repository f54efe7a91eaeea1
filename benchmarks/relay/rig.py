"""The processes that are measured: a store, a scripted replica and a front."""

import asyncio
import multiprocessing
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.relay import front, replica
from benchmarks.relay.words import word_tokens
from cluster.base_model.source import resolve_model
from cluster.config import AppConfig, Settings, cache_folder
from cluster.private_file import write_private
from cluster.tenancy.keys import hash_key, new_key
from deployments.local.valkey import EmbeddedValkey, free_port

TENANTS = """\
tenants:
  - {{id: bench, keys: ["{hash}"], adapters: ["*"]}}
"""


@dataclass(frozen=True, slots=True)
class Rig:
    """Holds the running front and the connection to its replica."""

    port: int
    pid: int  # of the front
    key: str
    model: str
    _replica: Connection

    async def sent(self) -> dict[str, list[float]]:
        """Return when the replica sent each token since the last call, by request id."""
        self._replica.send("sent")
        found: dict[str, list[float]] = await asyncio.to_thread(self._replica.recv)
        return found


@asynccontextmanager
async def rig(model: str, interval_s: float, loop: str) -> AsyncIterator[Rig]:
    """Start everything; all of it is gone afterwards.

    Args:
        model: hub id or folder, of which only the tokenizer is used.
        interval_s: seconds between the replica's steps.
        loop: event loop of the front, see `front.LOOPS`.
    """
    location = await asyncio.to_thread(resolve_model, model, cache_folder(Settings()))
    words = word_tokens(location.path)
    folder = Path(tempfile.mkdtemp(prefix="braid-relay-"))
    store = EmbeddedValkey(folder)
    key, signing_key = new_key(secrets.token_bytes), secrets.token_hex(32)
    write_private(folder / "tenants.yaml", TENANTS.format(hash=hash_key(key)))
    port = free_port()
    processes = multiprocessing.get_context("spawn")
    replica_end, replica_other = processes.Pipe()
    front_end, front_other = processes.Pipe()
    started: list[tuple[Any, Connection]] = []
    try:
        await asyncio.to_thread(store.start)
        arguments: tuple[Any, ...] = (replica_other, signing_key.encode(), words, interval_s)
        one = processes.Process(target=replica.serve, args=arguments, daemon=True)
        one.start()
        started.append((one, replica_end))
        replica_other.close()  # so that the end of a process is heard
        link_port = await asyncio.to_thread(replica_end.recv)
        config = AppConfig.model_validate(
            {
                "model": model,
                "tenants_file": folder / "tenants.yaml",
                "redis_url": store.url,
                "signing_key": signing_key,
                "front": {"port": port, "max_connections_per_address": 4096},
            }
        )
        args = {
            **config.model_dump(mode="json", exclude_defaults=True),
            "redis_url": store.url,
            "signing_key": signing_key,
        }
        arguments = (front_other, args, f"127.0.0.1:{link_port}", folder / "front.log", loop)
        other = processes.Process(target=front.serve, args=arguments, daemon=True)
        other.start()
        started.append((other, front_end))
        front_other.close()
        await asyncio.to_thread(front_end.recv)
        assert other.pid is not None
        yield Rig(port, other.pid, key, location.model_id, replica_end)
    finally:
        for process, end in reversed(started):
            if process.is_alive():
                end.send("stop")
                await asyncio.to_thread(process.join, 10)
            if process.is_alive():
                process.kill()
        await asyncio.to_thread(store.stop)
        shutil.rmtree(folder)
