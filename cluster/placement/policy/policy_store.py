"""Keeps the policy in Redis: every version, and which one is in force.

Keys, none with a TTL: ``braid:v1:policy:<number>`` (hash: text, sha256, author, message, source,
at) is written once; ``braid:v1:policy:current`` (hash) says what is in force, and each change of it
is published on the channel of its name. An override ends by the server's clock.
"""

import hashlib
from collections.abc import Awaitable
from importlib.resources import files
from typing import Any, TypeVar, cast

from redis.asyncio import Redis

from cluster.errors import StoreUnavailable
from cluster.placement.policy.policy_versions import (
    Commit,
    CommitOutcome,
    PolicyDraft,
    PolicyState,
    PolicyVersion,
)
from cluster.redis_announcements import AWAY, RedisAnnouncements
from cluster.redis_client import ServerScript

STEM = "braid:v1:policy"
CURRENT = f"{STEM}:current"
VERSIONS_KEPT = 200

T = TypeVar("T")


class PolicyStore:
    """Reads and writes versions. It takes over the client, and closes it.

    Args:
        client: with ``decode_responses`` off.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._read = ServerScript(client, _script("read_policy.lua"))
        self._commit = ServerScript(client, _script("commit_policy.lua"))
        self._announcements = RedisAnnouncements(client, CURRENT)

    async def read(self, known: int = 0) -> PolicyState:
        """Return what is in force, with its text unless it is the ``known`` version.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        reply = await _asked(self._read(keys=[CURRENT, STEM], args=[known]))
        number, base, file, left_ms, newest, fields = reply
        named = dict(zip(fields[::2], fields[1::2], strict=True))
        return PolicyState(
            number=int(number),
            base=int(base),
            file=file.decode(),
            override_left_s=int(left_ms) / 1000.0,
            newest=int(newest),
            version=_version(int(number), named) if named else None,
        )

    async def commit(
        self,
        draft: PolicyDraft,
        *,
        file: str = "",
        override_s: float | None = None,
        expected: int | None = None,
        above: int = 0,
    ) -> Commit:
        """Keep a text as the next version and put it in force, unless something is in the way.

        Args:
            file: that it was read from, which manages the policy from now on.
            override_s: it replaces the file's policy for so long.
            expected: the version that must be in force; None: any.
            above: a number that is known to have been used, whatever Redis has.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        arguments = [
            draft.text,
            digest_of_text(draft.text),
            draft.author,
            draft.message,
            draft.source,
            file,
            "" if override_s is None else round(override_s * 1000),
            "" if expected is None else expected,
            above,
            VERSIONS_KEPT,
        ]
        outcome, number = await _asked(self._commit(keys=[CURRENT, STEM], args=arguments))
        return Commit(CommitOutcome(outcome.decode()), int(number))

    async def release(self) -> None:
        """End the management by a file; its last version stays in force.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        await _asked(self._client.hset(CURRENT, "file", ""))

    async def version(self, number: int) -> PolicyVersion | None:
        """Return one version, or None if there is none of this number, or not any more.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        command = self._client.hgetall(f"{STEM}:{number}")
        fields = await _asked(cast("Awaitable[dict[bytes, bytes]]", command))
        return _version(number, fields) if fields else None

    async def history(self, most: int) -> tuple[PolicyVersion, ...]:
        """Return the last versions, newest first.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        newest = (await self.read()).newest
        numbers = range(newest, max(0, newest - most), -1)
        pipeline = self._client.pipeline(transaction=False)
        for number in numbers:
            pipeline.hgetall(f"{STEM}:{number}")
        found = await _asked(pipeline.execute()) if numbers else []
        return tuple(
            _version(number, fields)
            for number, fields in zip(numbers, found, strict=True)
            if fields
        )

    async def wait(self, timeout_s: float) -> None:
        """Return soon after a change; during an outage, pause for ``timeout_s``."""
        await self._announcements.wait(timeout_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._announcements.close()
        await self._client.aclose()


def digest_of_text(text: str) -> str:
    """Return the SHA-256 of a policy's text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _version(number: int, fields: dict[bytes, bytes]) -> PolicyVersion:
    named: dict[str, Any] = {key.decode(): value.decode() for key, value in fields.items()}
    return PolicyVersion(number=number, **{**named, "at": float(named["at"])})


async def _asked(command: Awaitable[T]) -> T:
    try:
        return await command
    except AWAY as error:
        raise StoreUnavailable(f"the policy in Redis cannot be reached: {error}") from error


def _script(name: str) -> str:
    return files("cluster.placement.policy").joinpath(name).read_text(encoding="utf-8")
