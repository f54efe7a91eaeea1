"""Adding and removing routers while the cluster serves, as an administrator asks for it.

An addition ends in exactly one of two ways: the name answers with the new router on every replica,
or an error, and the name is as it was.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.blocking import paced
from cluster.adapters.budget import ByteBudget
from cluster.adapters.registry import router_operations
from cluster.adapters.registry.records import AddOutcome, ReplicaAnswer, RouterRecord
from cluster.adapters.registry.registry_view import RegistryView
from cluster.adapters.sources.files import save_stream
from cluster.base_model.source import ModelLocation
from cluster.clock import Clock
from cluster.config import AppConfig, RouterConfig
from cluster.domain.ids import TenantId
from cluster.errors import (
    AdapterSourceRefused,
    ConfigError,
    RouterError,
    RouterNotFound,
    RouterOutdated,
    error_from_code,
)
from deployments.adapter_follower import AdapterFollower
from deployments.front.admin.broadcast import ReplicaBroadcast
from deployments.front.admin.front_routers import FrontRouters
from deployments.router_build import (
    added_path,
    bound_versions,
    build_router,
    candidates_of,
    router_store,
)
from router_service.artifacts.router_artifact import RouterManifest, read_manifest

log = structlog.get_logger(__name__)

KEPT_S = 3600.0
"""Artifacts that no name has are deleted after so long: nothing is building one of them by then."""
PACKED_FILE = "upload.tar"


@dataclass(frozen=True, slots=True)
class RouterChange:
    """The name and form under which a router is added."""

    name: str
    kind: str | None = None  # of a router that has no artifact
    options: dict[str, Any] | None = None
    replaces: bool = False


class RouterAdmin:
    """One per front; fronts may work at the same time."""

    def __init__(
        self,
        *,
        adapters: AdapterFollower,
        routers: FrontRouters,
        config: AppConfig,
        base: ModelLocation,
        replicas: ReplicaBroadcast,
        clock: Clock,
    ) -> None:
        self._adapters = adapters
        self._routers = routers
        self._config = config
        self._base = base
        self._replicas = replicas
        self._clock = clock

    @property
    def routers(self) -> FrontRouters:
        """Return this front's routers."""
        return self._routers

    async def upload(
        self,
        chunks: AsyncIterator[bytes],
        declared: int | None,
        change: RouterChange,
        by: TenantId,
    ) -> RouterRecord:
        """Add the artifact in a .tar as it arrives; see ``add``.

        Raises:
            RouterError, AdapterError: the archive or the artifact, by a stable code.
        """
        store = router_store(self._config)
        if store is None:
            raise AdapterSourceRefused(
                "nothing can be added: adapters.store_dir is not configured on this cluster"
            )
        await self._check_name(change)
        limits = AdapterLimits.from_config(self._config.adapters)
        budget = ByteBudget(limits)
        with tempfile.TemporaryDirectory() as folder:
            packed = Path(folder) / PACKED_FILE
            arriving = paced(chunks, limits.stall_timeout_s, "upload")
            await save_stream(
                packed, arriving, budget, kind=PACKED_FILE, declared=declared, where="upload"
            )

            def unpack() -> RouterManifest:
                with packed.open("rb") as file:
                    return store.add(file, budget)

            manifest = await asyncio.to_thread(unpack)
        return await self.add(change, by, manifest)

    async def add(
        self, change: RouterChange, by: TenantId, manifest: RouterManifest | None = None
    ) -> RouterRecord:
        """Try it here and on the replicas, and serve it under its name.

        Args:
            manifest: of the artifact in the store; None for a kind that has none.

        Raises:
            RouterError: it cannot be used with this base, these adapters or these limits.
            RouterOutdated: it was made for versions that are not there.
            RouterConflict: the name exists.
        """
        await self._check_name(change)
        if manifest is None and change.kind is None:
            raise RouterError("kind: needed for a router without an artifact", param="kind")
        kind = change.kind if manifest is None else manifest.kind
        version = "" if manifest is None else manifest.version
        router = RouterConfig(
            name=change.name,
            kind=kind,
            path=None if manifest is None else added_path(self._config, version),
            options=change.options or {},
        )
        await self._try(router)
        now = self._clock.wall()
        record = await self._adapters.registry.put_router(
            RouterRecord(change.name, kind or "", version, now, now, by, change.options or {}),
            replaces=change.replaces,
        )
        await self._routers.rebuild()
        await self._tidy()
        log.info("routers.added", name=change.name, kind=kind, version=version, by=by)
        return record

    async def remove(self, name: str, by: TenantId) -> None:
        """Remove an added router; a configured one of its name answers again.

        Raises:
            RouterNotFound: none of this name was added.
        """
        view = await self._adapters.registry.sync()
        if name not in view.routers and any(r.name == name for r in self._config.routers):
            raise RouterNotFound(
                f"the router {name!r} is in the cluster's configuration; it was not added",
                param="name",
            )
        await self._adapters.registry.remove_router(name)
        await self._routers.rebuild()
        await self._tidy()
        log.info("routers.removed", name=name, by=by)

    async def _check_name(self, change: RouterChange) -> None:
        view = await self._adapters.registry.sync()
        router_operations.check_router(view, change.name, replaces=change.replaces)
        configured = {router.name for router in self._config.routers}
        if change.name in configured - view.routers.keys() and not change.replaces:
            raise router_operations.conflict(change.name)

    async def _try(self, router: RouterConfig) -> None:
        try:
            check_candidates(router, self._adapters.view)
            entries = self._adapters.view.entries()
            await asyncio.to_thread(build_router, self._config, router, entries, self._base)
        except ConfigError as error:
            raise RouterError(_without(router.path, error.message)) from error
        answers = await self._replicas.prepare_router(
            router.model_dump(mode="json"), self._config.adapters.add_timeout_s
        )
        self._judge(answers)

    def _judge(self, answers: tuple[ReplicaAnswer, ...]) -> None:
        """Raise unless every replica that answers can serve it, and one does."""
        refused = next((answer for answer in answers if answer.outcome is AddOutcome.REFUSED), None)
        if refused is not None:
            error = error_from_code(refused.code, f"a replica refused it: {refused.message}")
            raise error if isinstance(error, RouterError) else RouterError(error.message)
        silent = [answer for answer in answers if answer.outcome is not AddOutcome.LOADED]
        if silent or not answers:
            raise error_from_code(
                "replica_lost", f"{len(silent)} of {len(answers)} replicas did not answer in time"
            )

    async def _tidy(self) -> None:
        store = router_store(self._config)
        if store is not None:
            kept = {router.version for router in self._adapters.view.routers.values()}
            before = self._clock.wall() - KEPT_S
            await asyncio.to_thread(store.remove_others, kept, before)


def check_candidates(router: RouterConfig, view: RegistryView) -> None:
    """Refuse an artifact that names adapters, or versions of them, that are not there.

    Raises:
        RouterError: an alias that no adapter has.
        RouterOutdated: a version that none of an alias's owners has, now or in its history.
    """
    aliases = {name.alias for name in view.names.values()}
    missing = [alias for alias in candidates_of(router) if alias not in aliases]
    if missing:
        raise RouterError(
            f"candidates that are not adapters here: {', '.join(missing)}; add them first, or "
            "train the router again",
            param="name",
        )
    for alias, digest in bound_versions(router).items():
        names = [name for name in view.names.values() if name.alias == alias]
        if not any(step.digest == digest for name in names for step in name.history):
            now = ", ".join(name.digest[:12] for name in names)
            raise RouterOutdated(
                f"made for version {digest[:12]} of {alias!r}, which is {now} here; add that "
                "version, or build the router again",
                param="name",
            )


def describe(router: RouterConfig, problem: str) -> dict[str, Any]:
    """Describe a router by its artifact, for people."""
    if router.path is None:
        return {"candidates": list(router.options.get("adapters", ()))}
    try:
        manifest = read_manifest(router.path)
    except ConfigError as error:
        return {"problem": problem or error.message}
    return {
        "kind": manifest.kind,
        "candidates": list(manifest.candidates),
        "made_for": dict(manifest.adapter_digests or {}),
        "version": manifest.version,
    }


def _without(path: Path | None, message: str) -> str:
    """Remove the server's paths from a message: clients need not know them."""
    return message if path is None else message.replace(f"{path}/", "")
