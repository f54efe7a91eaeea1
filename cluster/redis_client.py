"""Clients of Redis for the way of a request: a server that is away must cost little time."""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from cluster.errors import ConfigError

MAX_CONNECTIONS = 16
"""Of one pool, which keeps what the highest concurrency so far has needed. A command takes a
fraction of a millisecond, so more would not be faster; and every process has two or three pools,
while a server takes 10,000 clients by default."""
RETRIES = 1  # a pooled connection that died with the old server costs one attempt
HEALTH_CHECK_INTERVAL_S = 15


def redis_client(url: str, *, timeout_s: float, name: str) -> Redis:
    """A client whose commands fail after ``timeout_s``; connections are opened on first use.

    Make it inside the event loop that uses it. A broken connection is tried again once, a silent
    server is not.

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
        pool = BlockingConnectionPool.from_url(
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
    return Redis.from_pool(pool)
