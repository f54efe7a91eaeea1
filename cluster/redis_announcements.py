"""Waits for what is published on one channel of Redis, through outages and failovers."""

import asyncio
import contextlib
import math

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from cluster.redis_client import leave_replica, moves

ROLE_INTERVAL_S = 3.0
"""Seconds between a reading process's checks that its server is still the primary."""
AWAY = (RedisError, OSError, asyncio.TimeoutError)


class RedisAnnouncements:
    """Listens to one channel; one owner, on one event loop."""

    def __init__(self, client: Redis, channel: str) -> None:
        self._client = client
        self._channel = channel
        self._subscription: PubSub | None = None
        self._moves = 0  # of the primary, when the subscription was made
        self._asked_role_at = -math.inf  # the loop's time

    async def wait(self, timeout_s: float) -> None:
        """Return soon after an announcement; during an outage, pause for ``timeout_s``."""
        now = asyncio.get_running_loop().time()
        try:
            if now - self._asked_role_at >= ROLE_INTERVAL_S:
                self._asked_role_at = now
                await leave_replica(self._client)
            if self._subscription is not None and self._moves != moves(self._client):
                await self.close()  # the old primary announces nothing more
            if self._subscription is None:
                self._moves = moves(self._client)
                subscription = self._client.pubsub()
                await subscription.subscribe(self._channel)
                self._subscription = subscription
            # The confirmation of the subscription counts too: earlier announcements were missed.
            await self._subscription.get_message(timeout=timeout_s)
        except AWAY:
            await self.close()
            await asyncio.sleep(timeout_s)

    async def close(self) -> None:
        """End the subscription; the client stays open."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(*AWAY):
                await subscription.aclose()  # type: ignore[no-untyped-call] # redis-py's
