"""The registry in Redis: one hash of records and one version, changed by one script.

Keys, all under one hash tag so that a script touches one cluster slot, none with a TTL:
``braid:v1:{adapters:<base>}:records`` (hash), ``...:version`` (hash: epoch, number, floor, and the
server process), ``...:changed`` and ``...:removed`` (sorted sets: field by version). ``<base>``
tells apart the registries of different base models.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, TypeVar, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from cluster.adapters.registry.memory_store import REMOVED_KEPT
from cluster.adapters.registry.store import Changes, Fields, Version
from cluster.errors import StoreUnavailable

KEY_PREFIX = "braid:v1"
_AWAY = (RedisError, OSError, asyncio.TimeoutError)

T = TypeVar("T")


class RedisRegistryStore:
    """See the module. The client becomes the store's, which closes it.

    Args:
        client: with ``decode_responses`` off.
        model_id: the base model's name.
        new_epoch: a random name for a registry that begins anew.
    """

    def __init__(
        self,
        client: Redis,
        model_id: str,
        new_epoch: Callable[[], str],
        removed_kept: int = REMOVED_KEPT,
    ) -> None:
        self._client = client
        self._new_epoch = new_epoch
        self._removed_kept = removed_kept
        stem = f"{KEY_PREFIX}:{{adapters:{registry_name(model_id)}}}"
        self._version_key = f"{stem}:version"
        self._keys = [f"{stem}:records", self._version_key, f"{stem}:changed", f"{stem}:removed"]
        self._commit = client.register_script(_script("commit.lua"))
        self._changes = client.register_script(_script("changes.lua"))

    async def version(self) -> Version:
        """See ``RegistryStore``."""
        command = self._client.hmget(self._version_key, ["epoch", "number"])
        epoch, number = await _asked(cast("Awaitable[list[Any]]", command))
        return Version((epoch or b"").decode(), int(number or 0))

    async def changes(self, since: Version) -> Changes:
        """See ``RegistryStore``."""
        reply = await _asked(self._changes(keys=self._keys, args=[since.epoch, since.number]))
        epoch, number, full, *rest = reply
        fields = {
            field.decode(): raw if there == b"1" else None
            for field, there, raw in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
        }
        return Changes(Version(epoch.decode(), int(number)), full == b"1", fields)

    async def commit(self, expect: Fields, write: Fields) -> Version | None:
        """See ``RegistryStore``."""
        arguments: list[Any] = [self._new_epoch(), self._removed_kept]
        for part in (expect, write):
            arguments.append(len(part))
            for field, raw in part.items():
                arguments += [field, "0" if raw is None else "1", b"" if raw is None else raw]
        reply = await _asked(self._commit(keys=self._keys, args=arguments))
        if not reply:
            return None
        epoch, number = reply
        return Version(epoch.decode(), int(number))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def registry_name(model_id: str) -> str:
    """Tells the registries of different base models apart."""
    return hashlib.sha256(model_id.encode()).hexdigest()[:12]


async def _asked(command: Awaitable[T]) -> T:
    try:
        return await command
    except _AWAY as error:
        raise StoreUnavailable(f"the adapter registry in Redis does not answer: {error}") from error


def _script(name: str) -> str:
    return files("cluster.adapters.registry").joinpath(name).read_text(encoding="utf-8")
