"""The registry in Redis: one hash of records and one revision, changed by one script.

Keys, all under one hash tag so that a script touches one cluster slot, none with a TTL:
``braid:v1:{adapters:<base>}:records`` (hash), ``...:revision`` (hash: epoch, number, floor, and the
server process), ``...:changed`` and ``...:removed`` (sorted sets: field by revision). ``<base>``
tells apart the registries of different base models. Each commit is published on a channel of the
revision's name.
"""

import asyncio
import contextlib
import hashlib
import math
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, TypeVar, cast

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from cluster.adapters.registry.memory_store import REMOVED_KEPT
from cluster.adapters.registry.registry_store import Changes, Fields, Revision
from cluster.errors import StoreUnavailable
from cluster.redis_client import ServerScript, leave_replica, moves

KEY_PREFIX = "braid:v1"
ROLE_INTERVAL_S = 3.0
"""How often a process that may only read asks its server whether it is still the primary."""
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
        self._commits: PubSub | None = None
        self._moves = 0  # of the primary, when the subscription was made
        self._asked_role_at = -math.inf  # the loop's time
        stem = f"{KEY_PREFIX}:{{adapters:{registry_name(model_id)}}}"
        self._version_key = f"{stem}:revision"
        self._keys = [f"{stem}:records", self._version_key, f"{stem}:changed", f"{stem}:removed"]
        self._commit = ServerScript(client, _script("commit.lua"))
        self._changes = ServerScript(client, _script("changes.lua"))

    async def revision(self) -> Revision:
        """See ``RegistryStore``."""
        command = self._client.hmget(self._version_key, ["epoch", "number"])
        epoch, number = await _asked(cast("Awaitable[list[Any]]", command))
        return Revision((epoch or b"").decode(), int(number or 0))

    async def changes(self, since: Revision) -> Changes:
        """See ``RegistryStore``."""
        reply = await _asked(self._changes(keys=self._keys, args=[since.epoch, since.number]))
        epoch, number, full, *rest = reply
        fields = {
            field.decode(): raw if there == b"1" else None
            for field, there, raw in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
        }
        return Changes(Revision(epoch.decode(), int(number)), full == b"1", fields)

    async def commit(self, expect: Fields, write: Fields) -> Revision | None:
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
        return Revision(epoch.decode(), int(number))

    async def wait(self, timeout_s: float) -> None:
        """See ``RegistryStore``; while nobody answers it is a pause."""
        now = asyncio.get_running_loop().time()
        try:
            if now - self._asked_role_at >= ROLE_INTERVAL_S:
                self._asked_role_at = now
                await leave_replica(self._client)
            if self._commits is not None and self._moves != moves(self._client):
                await self._unsubscribe()  # the old primary announces nothing more
            if self._commits is None:
                self._moves = moves(self._client)
                commits = self._client.pubsub()
                await commits.subscribe(self._version_key)
                self._commits = commits
            # The server's word that it listens counts too: what was made before it was missed.
            await self._commits.get_message(timeout=timeout_s)
        except _AWAY:
            await self._unsubscribe()
            await asyncio.sleep(timeout_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._unsubscribe()
        await self._client.aclose()

    async def _unsubscribe(self) -> None:
        commits, self._commits = self._commits, None
        if commits is not None:
            with contextlib.suppress(*_AWAY):
                await commits.aclose()  # type: ignore[no-untyped-call] # redis-py's


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
