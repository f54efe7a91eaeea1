"""Redis clients for the request path, with short timeouts so that an outage adds little latency.

After a failover the old primary may keep its connections open while new ones would reach the new
primary. So an answer that says that this server takes no writes ends the connection, and all others
of its pool, and what was asked is asked once more over a new one.
"""

import asyncio
import hashlib
import re
from collections.abc import Sequence
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cluster.errors import ConfigError

MAX_CONNECTIONS = 16
"""Of one pool, which keeps what the highest concurrency so far has needed. A command takes a
fraction of a millisecond, so more would not be faster; and every process has two or three pools,
while a server takes 10,000 clients by default."""
RETRIES = 1  # a pooled connection that died with the old server costs one attempt
HEALTH_CHECK_INTERVAL_S = 15
CLUSTER_REFUSED = (
    "this server is a node of a Redis Cluster, which is not supported; use a single server or "
    "a primary with replicas behind one name"
)
_DEMOTED = re.compile(r"\b(READONLY|NOREPLICAS|MASTERDOWN|UNBLOCKED)\b")


class PrimaryMoved(RedisConnectionError):
    """Replaces a server's answer that it is not a primary that may write."""


class PrimaryPool(BlockingConnectionPool):
    """Gives up all its connections when one of them shows that the primary is elsewhere."""

    moves = 0
    """Times that this has happened; what stays connected, a subscription, is renewed after it."""

    def make_connection(self) -> AbstractConnection:
        """Return a connection that reports to this pool."""
        made = super().make_connection()  # type: ignore[no-untyped-call] # redis-py's
        connection = cast("_Watched", made)
        connection.pool = self
        return cast("AbstractConnection", connection)

    async def leave_server(self) -> None:
        """Close idle connections now, and those in use when they are given back."""
        self.moves += 1
        for connection in self._in_use_connections:
            connection.mark_for_reconnect()  # type: ignore[no-untyped-call] # redis-py's
        await self.close_idle()

    async def close_idle(self) -> None:
        """Close what is not in use; it is opened again when needed."""
        await asyncio.gather(
            *(connection.disconnect(nowait=True) for connection in self._available_connections),
            return_exceptions=True,
        )


class _Watched:
    """Part of a connection: looks at every answer, also those within pipelines."""

    pool: PrimaryPool | None = None

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read a response as the connection does.

        Raises:
            PrimaryMoved: the server takes no writes; the client tries again, over a new connection.
            ResponseError: the server is a node of a Redis Cluster, among others.
        """
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except (MovedError, AskError, ClusterCrossSlotError) as error:
            raise ResponseError(CLUSTER_REFUSED) from error
        except ResponseError as error:
            if not _is_demoted(error):
                raise
            if self.pool is not None:
                await self.pool.leave_server()
            raise PrimaryMoved(f"{error.status_code or ''} {error}".strip()) from error
        except RedisTimeoutError:
            # The others may lead to the same silent server, and would cost a timeout each.
            if self.pool is not None:
                await self.pool.close_idle()
            raise


class _WatchedConnection(_Watched, Connection):
    pass


class _WatchedSSLConnection(_Watched, SSLConnection):
    pass


class _WatchedUnixConnection(_Watched, UnixDomainSocketConnection):
    pass


_WATCHED: dict[type[AbstractConnection], type[AbstractConnection]] = {
    Connection: _WatchedConnection,
    SSLConnection: _WatchedSSLConnection,
    UnixDomainSocketConnection: _WatchedUnixConnection,
}


def redis_client(url: str, *, timeout_s: float, name: str) -> Redis:
    """Return a client whose commands fail after ``timeout_s``; connections are opened on first use.

    Make it inside the event loop that uses it. A broken connection is tried again once, and so is
    a server that is not the primary any more; a silent server is not.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        timeout_s: for connecting, for a command, and for a free connection.
        name: shown by the server's ``CLIENT LIST``.

    Raises:
        ConfigError: the URL is none of these.
    """
    retry = Retry(
        ExponentialWithJitterBackoff(base=0.005, cap=0.02),
        RETRIES,
        supported_errors=(RedisConnectionError,),
    )
    try:
        pool = PrimaryPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            health_check_interval=HEALTH_CHECK_INTERVAL_S,
            client_name=name,
            retry=retry,
        )
    except ValueError as error:
        raise ConfigError(f"redis_url: {error}") from error
    pool.connection_class = _WATCHED[pool.connection_class]
    return Redis.from_pool(pool)


class ServerScript:
    """A Lua script, known by its digest; sent whole where the server does not know it.

    So it survives a failover in the middle of a call: whichever server answers can run it.
    """

    def __init__(self, client: Redis, text: str) -> None:
        self._client = client
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run the script and return its reply."""
        try:
            return await self._client.evalsha(self._digest, len(keys), *keys, *args)
        except NoScriptError:
            return await self._client.eval(self._text, len(keys), *keys, *args)


async def leave_replica(client: Redis) -> None:
    """Give up connections that lead to a replica, for a process that only reads.

    A server that does not say what it is passes.
    """
    pool = client.connection_pool
    try:
        role = await client.execute_command("ROLE")  # type: ignore[no-untyped-call] # redis-py's
    except ResponseError:
        return
    if role[0] in (b"slave", "slave") and isinstance(pool, PrimaryPool):
        await pool.leave_server()


def moves(client: Redis) -> int:
    """Return how often a client has found its primary elsewhere."""
    return cast("int", getattr(client.connection_pool, "moves", 0))


def _is_demoted(error: ResponseError) -> bool:
    """Report whether an answer says that the server is not a primary that may write.

    Errors within scripts have the code in their text alone.
    """
    if isinstance(error, ReadOnlyError | ClusterDownError):  # MASTERDOWN is one of these
        return True
    return _DEMOTED.search(str(error)) is not None
