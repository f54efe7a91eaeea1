"""What of the routers runs inside this replica's engine, kept in step with the registry."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import structlog

from cluster.adapters.registry.registry_view import RegistryView
from cluster.base_model.source import ModelLocation
from cluster.clock import Clock
from cluster.config import AppConfig, RouterConfig
from cluster.domain.adapter import AdapterEntry
from cluster.errors import BraidError, ConfigError, RouterError
from deployments.live_adapters import LiveAdapters
from deployments.live_routers import build_part, fingerprint, router_configs
from deployments.replica.mixing import DecisionMixing
from router_service.routers.kind import EnginePart

log = structlog.get_logger(__name__)

GRACE_S = 60.0
"""A front may decide by a router for a moment after it was replaced or removed, and one that is
tried is wanted by nobody yet: a part stays so long, and until no live request needs it."""
LOADED, REFUSED = "loaded", "refused"

Build = Callable[[RouterConfig, Mapping[str, AdapterEntry]], dict[str, EnginePart]]
"""Reads an artifact, given all adapters by alias; runs in a thread."""


@dataclass(frozen=True, slots=True)
class _Built:
    fingerprint: str
    versions: frozenset[str]
    failed: bool


class PartKeeper:
    """Follows the routers that are added, replaced and removed, and answers the front.

    Args:
        uses: whether a live request has been decided by a router of this version.
    """

    def __init__(
        self,
        *,
        live: LiveAdapters,
        mixing: DecisionMixing,
        configs: Callable[[RegistryView], tuple[RouterConfig, ...]],
        build: Build,
        uses: Callable[[str], bool],
        clock: Clock,
    ) -> None:
        self._live = live
        self._mixing = mixing
        self._configs = configs
        self._build = build
        self._uses = uses
        self._clock = clock
        self._built: dict[str, _Built] = {}
        self._leaving: dict[str, float] = {}  # version -> since when nothing names it, monotonic s
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, configured: frozenset[str]) -> None:
        """Build all that there is, and follow.

        Raises:
            ConfigError: one of the ``configured`` routers cannot be used with this base.
        """
        await self.sync()
        broken = [n for n, b in self._built.items() if b.failed and n in configured]
        added = self._live.view.routers
        for router in self._configs(self._live.view):
            if router.name in broken and router.name not in added and router.path is not None:
                self._build(router, self._live.view.entries())  # says what is wrong with it
        self._live.on_change(self._follow)

    async def sync(self) -> None:
        """Have a part for every router of the present view, and let go of the others in time."""
        async with self._lock:
            view = self._live.view
            configs = self._configs(view)
            for router in configs:
                await self._keep(router, view)
            names = {router.name for router in configs}
            self._built = {name: built for name, built in self._built.items() if name in names}
            wanted = frozenset[str]().union(*(built.versions for built in self._built.values()))
            now = self._clock.monotonic()
            for version in self._mixing.versions - wanted:
                self._leaving.setdefault(version, now)
            for version in wanted:
                self._leaving.pop(version, None)

    async def prepare(self, router: RouterConfig) -> tuple[str, str, str]:
        """Try a router that is to be added: (outcome, code, message)."""
        try:
            await self._live.catch_up()
            parts = await self._load(router, self._live.view)
        except BraidError as error:
            code = RouterError.code if isinstance(error, ConfigError) else error.code
            return REFUSED, code, error.message
        for version, part in parts.items():
            if version not in self._mixing.versions:
                self._mixing.add(version, part)
                self._leaving[version] = self._clock.monotonic()
        return LOADED, "", ""

    async def ensure(self, version: str) -> None:
        """Look again where a front has decided by a router that is not known here."""
        if version not in self._mixing.versions:
            await self._live.catch_up()
            self._built = {name: built for name, built in self._built.items() if not built.failed}
            await self.sync()

    def sweep(self) -> None:
        """Let go of what nothing names and no live request needs."""
        before = self._clock.monotonic() - GRACE_S
        for version, since in tuple(self._leaving.items()):
            if since <= before and not self._uses(version):
                del self._leaving[version]
                self._mixing.remove(version)
                log.info("replica.router_removed", version=version[:12])

    async def close(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _follow(self, view: RegistryView) -> None:
        entries = view.entries()
        wanted = {r.name: fingerprint(r, entries) for r in self._configs(view)}
        if wanted != {name: built.fingerprint for name, built in self._built.items()}:
            task = asyncio.create_task(self.sync())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _keep(self, router: RouterConfig, view: RegistryView) -> None:
        wanted = fingerprint(router, view.entries())
        built = self._built.get(router.name)
        if built is not None and built.fingerprint == wanted:
            return
        try:
            parts = await self._load(router, view)
        except BraidError as error:
            log.error("replica.router_refused", router=router.name, reason=error.message)
            self._built[router.name] = _Built(wanted, frozenset(), failed=True)
            return
        for version, part in parts.items():
            self._mixing.add(version, part)
        self._built[router.name] = _Built(wanted, frozenset(parts), failed=False)

    async def _load(self, router: RouterConfig, view: RegistryView) -> dict[str, EnginePart]:
        entries = dict(view.entries())
        if router.path is None:  # made of the adapters' own files
            entries = {
                alias: replace(entry, path=self._live.by_digest(entry.key.digest).path)
                for alias, entry in entries.items()
                if alias in router.options.get("adapters", ())
            }
        return await asyncio.to_thread(self._build, router, entries)


def part_keeper(
    config: AppConfig,
    base: ModelLocation,
    *,
    live: LiveAdapters,
    mixing: DecisionMixing,
    uses: Callable[[str], bool],
    clock: Clock,
) -> PartKeeper:
    """The keeper of a replica's application."""
    return PartKeeper(
        live=live,
        mixing=mixing,
        configs=lambda view: router_configs(config, view),
        build=lambda router, entries: build_part(config, router, entries, base),
        uses=uses,
        clock=clock,
    )
