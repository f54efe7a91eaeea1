"""Keeps the registry in Redis: one hash of records and one revision, changed by one script.

Keys, all under one hash tag so that a script touches one cluster slot, none with a TTL:
``braid:v1:{adapters:<base>}:records`` (hash), ``...:revision`` (hash: epoch, number, floor, and the
server process), ``...:changed`` and ``...:removed`` (sorted sets: field by revision). ``<base>``
distinguishes the registries of base models. Each commit is published on a channel of the
revision's name.
"""

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, TypeVar, cast

from redis.asyncio import Redis

from cluster.adapters.registry.memory_store import REMOVED_KEPT
from cluster.adapters.registry.registry_store import Changes, Fields, Revision
from cluster.errors import StoreUnavailable
from cluster.redis_announcements import AWAY, RedisAnnouncements
from cluster.redis_client import ServerScript

KEY_PREFIX = "braid:v1"

T = TypeVar("T")


class RedisRegistryStore:
    """Implements ``RegistryStore`` on Redis. It takes over the client, and closes it.

    Args:
        client: with ``decode_responses`` off.
        model_id: the base model's name.
        new_epoch: creates a random epoch for a new registry.
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
        self._version_key = f"{stem}:revision"
        self._keys = [f"{stem}:records", self._version_key, f"{stem}:changed", f"{stem}:removed"]
        self._commits = RedisAnnouncements(client, self._version_key)
        self._commit = ServerScript(client, _script("commit.lua"))
        self._changes = ServerScript(client, _script("changes.lua"))

    async def revision(self) -> Revision:
        """Return the present revision."""
        command = self._client.hmget(self._version_key, ["epoch", "number"])
        epoch, number = await _asked(cast("Awaitable[list[Any]]", command))
        return Revision((epoch or b"").decode(), int(number or 0))

    async def changes(self, since: Revision) -> Changes:
        """Return the changes after ``since``, or everything for an unknown revision."""
        reply = await _asked(self._changes(keys=self._keys, args=[since.epoch, since.number]))
        epoch, number, full, *rest = reply
        fields = {
            field.decode(): raw if there == b"1" else None
            for field, there, raw in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
        }
        return Changes(Revision(epoch.decode(), int(number)), full == b"1", fields)

    async def commit(self, expect: Fields, write: Fields) -> Revision | None:
        """Write all of ``write`` if every field of ``expect`` is as it says."""
        arguments: list[Any] = [self._new_epoch(), self._removed_kept]
        for part in (expect, write):
            arguments.append(len(part))
            for field, raw in part.items():
                arguments += [field, "0" if raw is None else "1", b"" if raw is None else raw]
        reply = await _asked(self._commit(keys=self._keys, args=arguments))
        if not reply:
            return None
        epoch, number = reply
        return Revision(epoch.decode(), int(number))

    async def wait(self, timeout_s: float) -> None:
        """Return soon after a commit; during an outage, pause for ``timeout_s``."""
        await self._commits.wait(timeout_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._commits.close()
        await self._client.aclose()


def registry_name(model_id: str) -> str:
    """Derive the name that distinguishes the registries of base models."""
    return hashlib.sha256(model_id.encode()).hexdigest()[:12]


async def _asked(command: Awaitable[T]) -> T:
    try:
        return await command
    except AWAY as error:
        raise StoreUnavailable(f"the adapter registry in Redis does not answer: {error}") from error


def _script(name: str) -> str:
    return files("cluster.adapters.registry").joinpath(name).read_text(encoding="utf-8")
