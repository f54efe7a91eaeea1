"""The controller's state in Redis, which outlives it."""

from typing import Any

import orjson
import structlog
from redis.exceptions import RedisError

from cluster.redis_client import redis_client

log = structlog.get_logger(__name__)

KEY = "braid:v1:controller:state"
TIMEOUT_S = 1.0


class ControllerState:
    """The reconciler's state as one JSON document in Redis, written when it changed."""

    def __init__(self, url: str) -> None:
        self._redis = redis_client(url, timeout_s=TIMEOUT_S, name="braid-controller")
        self._written = b""
        self.error: str | None = None
        """Says why the last access failed; None if it did not."""

    async def load(self) -> dict[str, Any] | None:
        """Return what was last saved, or None if there is nothing or Redis does not answer."""
        try:
            data = await self._redis.get(KEY)
        except (RedisError, OSError) as error:
            self._failed(error)
            return None
        self.error = None
        if data is None:
            return None
        value: dict[str, Any] = orjson.loads(data)
        return value

    async def save(self, state: dict[str, Any]) -> None:
        """Keep ``state``; tried again at the next call if Redis does not answer."""
        data = orjson.dumps(state)
        if data == self._written:
            return
        try:
            await self._redis.set(KEY, data)
        except (RedisError, OSError) as error:
            self._failed(error)
            return
        self.error = None
        self._written = data

    async def close(self) -> None:
        """Close the connection."""
        await self._redis.aclose()

    def _failed(self, error: Exception) -> None:
        if self.error is None:
            log.warning("controller.state_unavailable", error=str(error))
        self.error = f"{type(error).__name__}: {error}"
