"""Leases of a replica's requests on their adapters."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from cluster.adapters.residency.manager import AdapterManager
from cluster.adapters.residency.residency_types import Lease
from cluster.clock import Clock
from cluster.domain.ids import AdapterDigest
from cluster.errors import AdapterError, ModelNotFound
from deployments.replica.replica_request import ReplicaRequest
from deployments.replica.request_counters import RerouteCounters
from deployments.replica.request_notes import ids_of

log = structlog.get_logger(__name__)

SyncAdapters = Callable[[tuple[AdapterDigest, ...]], Awaitable[None]]
"""Syncs with the registry if one of these versions is not known here yet."""


class RequestLeases:
    """Acquires leases within a request's deadline, and releases them."""

    def __init__(
        self,
        adapters: AdapterManager,
        sync_adapters: SyncAdapters,
        clock: Clock,
        counters: RerouteCounters,
    ) -> None:
        self._adapters = adapters
        self._sync_adapters = sync_adapters
        self._clock = clock
        self._counters = counters

    async def acquire_all(self, request: ReplicaRequest) -> Lease | None:
        """Return a lease on the adapters of all spans, or None if the deadline came first.

        If those of a re-routed request cannot be had together, it is reduced to its newest span.

        Raises:
            AdapterError, ModelNotFound: the adapters cannot be had.
        """
        try:
            return await self.acquire(request, request.digests)
        except (AdapterError, ModelNotFound) as error:
            if not request.later:
                raise
            log.warning("replica.replay_reduced", **ids_of(request), reason=error.message)
        self._counters.replays_reduced += 1
        request.decision, request.later = request.newest, []
        return await self.acquire(request, request.digests)

    async def acquire(
        self, request: ReplicaRequest, digests: tuple[AdapterDigest, ...]
    ) -> Lease | None:
        """Return a lease on adapters that the front knew, or None if the deadline came first.

        Raises:
            AdapterError, ModelNotFound: the adapters cannot be had.
        """
        await self._sync_adapters(digests)
        if request.deadline_at is None:
            return await self._acquire(digests, request)
        try:
            async with asyncio.timeout(request.deadline_at - self._clock.monotonic()):
                return await self._acquire(digests, request)
        except TimeoutError:
            return None

    def release(self, lease: Lease) -> None:
        """End one lease. Should it fail to serve those who wait, the caller goes on."""
        try:
            self._adapters.release(lease)
        except Exception:
            log.exception("replica.release_failed", adapters=[d[:12] for d in lease.digests])

    def release_all(self, request: ReplicaRequest) -> None:
        """End all leases of a request."""
        for lease in request.take_leases():
            self.release(lease)

    async def _acquire(self, digests: tuple[AdapterDigest, ...], request: ReplicaRequest) -> Lease:
        return await self._adapters.acquire(digests, request.tenant, request.weight)
