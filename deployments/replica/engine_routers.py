"""The parts of routers that run inside this replica's engine, in sync with the registry."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from cluster.adapters.registry.records import AddOutcome, ReplicaAnswer
from cluster.base_model.source import ModelLocation
from cluster.clock import Clock
from cluster.config import AppConfig, RouterConfig
from cluster.domain.adapter import AdapterEntry
from cluster.domain.ids import ReplicaId
from cluster.errors import BraidError, ConfigError, RouterError
from deployments.adapter_follower import AdapterFollower
from deployments.replica.mixing import DecisionMixing
from deployments.router_build import build_part
from deployments.router_follower import (
    Build,
    BuildResult,
    Configs,
    RouterFollower,
    SyncedView,
)
from router_service.routers.kind import EnginePart

log = structlog.get_logger(__name__)

GRACE_S = 60.0
"""A front may decide by a router for a moment after it was replaced or removed, and nothing names
one that is being tried: a part stays so long, and until no live request needs it."""

Parts = dict[str, EnginePart]
"""A router's parts by its version; empty if none of it runs in the engine."""


class EngineRouters:
    """Adds and removes the engine's parts as routers come and go, and answers the front.

    Args:
        replica_id: names this replica in its answers.
        uses: reports whether a live request has been decided by a router of a version.
    """

    def __init__(
        self,
        *,
        replica_id: ReplicaId,
        adapters: SyncedView,
        mixing: DecisionMixing,
        configs: Configs,
        build: Build[Parts],
        uses: Callable[[str], bool],
        clock: Clock,
    ) -> None:
        self._replica_id = replica_id
        self._adapters = adapters
        self._mixing = mixing
        self._build = build
        self._uses = uses
        self._clock = clock
        self._leaving: dict[str, float] = {}  # version -> since when nothing names it, monotonic s
        self._follower = RouterFollower(adapters, configs, build, self._adopt, role="replica")

    async def start(self, configured: tuple[RouterConfig, ...]) -> None:
        """Build all parts, and stay in sync until ``close``.

        Raises:
            ConfigError: one of the ``configured`` routers cannot be used with this base.
        """
        await self._follower.start(configured)

    async def rebuild(self) -> None:
        """Add the parts of the present view, and let the others leave after their grace."""
        await self._follower.rebuild()

    async def prepare(self, router: RouterConfig) -> ReplicaAnswer:
        """Try a router that is to be added."""
        try:
            await self._adapters.sync()
            entries = self._adapters.view.entries()
            parts = await asyncio.to_thread(self._build, router, entries)
        except BraidError as error:
            code = RouterError.code if isinstance(error, ConfigError) else error.code
            return ReplicaAnswer(self._replica_id, AddOutcome.REFUSED, code, error.message)
        for version, part in parts.items():
            if version not in self._mixing.versions:
                self._mixing.add(version, part)
                self._leaving[version] = self._clock.monotonic()
        return ReplicaAnswer(self._replica_id, AddOutcome.LOADED)

    async def sync_for(self, version: str) -> None:
        """Sync if this version is unknown: the front that decided by it has a newer view."""
        if version not in self._mixing.versions:
            await self._follower.retry()

    def sweep(self) -> None:
        """Remove the parts that nothing has named for ``GRACE_S`` and no live request needs."""
        before = self._clock.monotonic() - GRACE_S
        for version, since in tuple(self._leaving.items()):
            if since <= before and not self._uses(version):
                del self._leaving[version]
                self._mixing.remove(version)
                log.info("replica.router_removed", version=version[:12])

    async def close(self) -> None:
        """Stop syncing."""
        await self._follower.close()

    def _adopt(self, results: Mapping[str, BuildResult[Parts]]) -> None:
        named: Parts = {}
        for result in results.values():
            named |= result.value or {}
        for version, part in named.items():
            if version not in self._mixing.versions:
                self._mixing.add(version, part)
            self._leaving.pop(version, None)
        now = self._clock.monotonic()
        for version in self._mixing.versions - named.keys():
            self._leaving.setdefault(version, now)


def part_builder(config: AppConfig, base: ModelLocation, adapters: AdapterFollower) -> Build[Parts]:
    """Return the function that builds a router's parts from its artifact or its adapters."""

    def build(router: RouterConfig, entries: Mapping[str, AdapterEntry]) -> Parts:
        if router.path is None:  # made of the adapters' own files
            entries = {
                alias: replace(entry, path=adapters.by_digest(entry.key.digest).path)
                for alias, entry in entries.items()
                if alias in router.options.get("adapters", ())
            }
        return build_part(config, router, entries, base)

    return build
