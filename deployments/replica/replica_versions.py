"""Adapter versions on one replica: tried when they are added, pinned, and unloaded when retired."""

from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from cluster.adapters.registry.records import AddOutcome, ReplicaAnswer
from cluster.adapters.registry.registry_view import RegistryView
from cluster.adapters.residency.manager import AdapterManager
from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.errors import AdapterCapacity, BraidError
from deployments.adapter_follower import AdapterFollower

log = structlog.get_logger(__name__)


class VersionUsers(Protocol):
    """Requests that versions are unloaded under."""

    def uses(self, digest: AdapterDigest) -> bool:
        """Report whether a live request has been decided on a version, or may have been."""
        ...


class ReplicaVersions:
    """Keeps pins in sync with the registry, and answers the front and the controller.

    Args:
        replica_id: names this replica in its answers.
        on_freed: called after versions were unloaded, before that is answered.
    """

    def __init__(
        self,
        *,
        replica_id: ReplicaId,
        follower: AdapterFollower,
        adapters: AdapterManager,
        users: VersionUsers,
        on_freed: Callable[[], Awaitable[None]],
    ) -> None:
        self._replica_id = replica_id
        self._follower = follower
        self._adapters = adapters
        self._users = users
        self._on_freed = on_freed
        self._pinned: frozenset[AdapterDigest] = frozenset()

    def start(self) -> None:
        """Pin the versions that are pinned now, and stay in sync."""
        self._sync_pins(self._follower.view)
        self._follower.on_change(self._sync_pins)

    async def prepare(self, digest: AdapterDigest) -> ReplicaAnswer:
        """Load a version, or check that it could be loaded if there were room."""
        try:
            await self._follower.sync_for((digest,))
            try:
                await self._adapters.load_adapter(digest)
                outcome = AddOutcome.LOADED
            except AdapterCapacity:
                await self._adapters.read_adapter(digest)
                outcome = AddOutcome.CHECKED
        except BraidError as error:
            return ReplicaAnswer(self._replica_id, AddOutcome.REFUSED, error.code, error.message)
        return ReplicaAnswer(self._replica_id, outcome)

    async def unload(self, digests: tuple[AdapterDigest, ...]) -> tuple[AdapterDigest, ...]:
        """Unload versions that no request here uses, and return those that are gone."""
        gone = []
        for digest in digests:
            if not self._users.uses(digest) and await self._adapters.evict_adapter(digest):
                gone.append(digest)
        if gone:
            await self._on_freed()
        return tuple(gone)

    def _sync_pins(self, view: RegistryView) -> None:
        desired = view.pinned
        for digest in self._pinned - desired:
            self._adapters.unpin_adapter(digest)
        for digest in sorted(desired - self._pinned):
            if not self._adapters.pin_adapter(digest):
                log.warning("replica.pin_not_loaded", digest=digest)
        self._pinned = desired
