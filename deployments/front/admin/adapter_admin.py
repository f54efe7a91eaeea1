"""Adding, switching and removing adapters, as an administrator asks for it.

An addition ends in exactly one of two ways: the name points to the new version, which enough
replicas have said they can serve; or an error, and the name is as it was.
"""

import asyncio
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import structlog

from cluster.adapters.adapter_store import ContentStore
from cluster.adapters.format.manifest import read_manifest
from cluster.adapters.registry.operations import ABSENT
from cluster.adapters.registry.records import (
    AdapterVersion,
    AddOutcome,
    Name,
    Place,
    PlaceKind,
    ReplicaAnswer,
    VersionState,
    name_id,
)
from cluster.adapters.sources import AdapterSource
from cluster.clock import Clock
from cluster.config import AdapterConfig
from cluster.domain.adapter import SHARED_OWNER, AdapterManifest, BaseCheck
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import (
    AdapterCapacity,
    AdapterConflict,
    AdapterCorrupt,
    AdapterError,
    AdapterLoadFailed,
    AdapterSourceRefused,
    BraidError,
    error_from_code,
)
from deployments.adapter_follower import NO_BASE, AdapterFollower, content_store
from deployments.front.admin.broadcast import ReplicaBroadcast

log = structlog.get_logger(__name__)

POLL_S = 0.05
REMOVE_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class NameChange:
    """The name that an addition or a switch is for."""

    alias: str
    owner: TenantId = SHARED_OWNER
    expected: AdapterDigest | None = ABSENT
    """The version that the name must point to; ``ABSENT``: it is new; None: whatever it is."""
    grants: tuple[str, ...] | None = None  # None: as they are


class AdapterAdmin:
    """One per front; fronts may work at the same time."""

    def __init__(
        self,
        *,
        adapters: AdapterFollower,
        config: AdapterConfig,
        replicas: ReplicaBroadcast,
        clock: Clock,
        hub_token: str | None = None,
        base_dir: Path | None = None,
        base_template: str | None = None,
    ) -> None:
        self.hub_token = hub_token
        self._base_dir = base_dir
        self._base_template = base_template
        self._adapters = adapters
        self._registry = adapters.registry
        self._config = config
        self._replicas = replicas
        self._clock = clock

    @property
    def config(self) -> AdapterConfig:
        """Return the limits of what may be added, and from where."""
        return self._config

    async def add(
        self,
        source: AdapterSource,
        change: NameChange,
        by: TenantId,
        base_check: BaseCheck | None = None,
    ) -> Name:
        """Store an adapter, check it, let replicas try it, and point the name to it.

        ``base_check`` is what must agree with the base for this one; None: as configured.

        Raises:
            AdapterConflict: the name does not point where expected; found before anything is
                fetched, and again at the end.
            AdapterError: what is wrong with the adapter or its source, by a stable code.
        """
        await self._registry.sync()
        self._registry.check_add(change.owner, change.alias, change.expected)
        store = await self._store(base_check)
        stored = await store.add(source)
        now = self._clock.wall()
        version = AdapterVersion(
            manifest=stored.manifest,
            place=Place(PlaceKind.STORE),
            state=VersionState.STAGED,
            source=source.describe(),
            added_at=now,
            changed_at=now,
            tags=stored.tags,
            notes=stored.notes + self._template_notes(stored.manifest),
            base_check=base_check or stored.base_check,
        )
        await self._registry.stage(version, name_id(change.owner, change.alias))
        try:
            return await self._serve(store, stored.digest, change, by)
        except BaseException:
            await self._abandon(stored.digest)
            raise

    async def switch(self, digest: AdapterDigest, change: NameChange, by: TenantId) -> Name:
        """Switch a name to a version that is stored already.

        Raises:
            AdapterConflict: the name does not point where expected.
            AdapterNotFound: the version does not exist.
            AdapterNotStored: its files are not in the store any more.
        """
        version = (await self._registry.sync()).version(digest)
        if version.place.kind is PlaceKind.STORE:
            await asyncio.to_thread(self._adapters.path_of, version)
        return await self._point(digest, change, by)

    async def roll_back(
        self, owner: TenantId, alias: str, expected: AdapterDigest | None, by: TenantId
    ) -> Name:
        """Switch a name back to the version before; see ``operations.roll_back``."""
        return await self._registry.roll_back(owner, alias, expected=expected, by=by)

    async def pin(self, owner: TenantId, alias: str, pinned: bool) -> Name:
        """Keep a name's version on every replica, or no longer.

        Raises:
            AdapterCapacity: a slot must stay free for the others.
        """
        view = await self._registry.sync()
        after = view.pinned | {view.name(owner, alias).digest}
        if pinned and len(after) >= self._config.slots:
            raise AdapterCapacity(
                f"{len(after)} pinned versions would leave no slot of {self._config.slots} free"
            )
        return await self._registry.pin_name(owner, alias, pinned)

    async def remove(
        self,
        owner: TenantId,
        alias: str,
        *,
        expected: AdapterDigest | None,
        force: bool,
        wait_s: float = REMOVE_WAIT_S,
    ) -> dict[AdapterDigest, bool]:
        """Remove a name, and wait until the versions that only it had are gone.

        Returns, by digest, whether each of them is.
        """
        view = await self._registry.sync()
        had = {step.digest for step in view.name(owner, alias).history}
        await self._registry.remove_name(owner, alias, expected=expected, force=force)
        return await self._gone(had, wait_s)

    async def retire_version(
        self, digest: AdapterDigest, *, force: bool, wait_s: float = REMOVE_WAIT_S
    ) -> dict[AdapterDigest, bool]:
        """Remove a version from all histories and wait until it is gone everywhere."""
        await self._registry.retire_version(digest, force=force)
        return await self._gone({digest}, wait_s)

    async def verify(self, digest: AdapterDigest) -> None:
        """Read every byte of a version and compare it with its digest.

        Raises:
            AdapterCorrupt: it is not what was registered.
        """
        version = (await self._registry.sync()).version(digest)
        if version.place.kind is PlaceKind.STORE:
            store = content_store(self._config, NO_BASE)
            if store is None:
                raise AdapterSourceRefused("adapters.store_dir is not configured")
            await asyncio.to_thread(store.verify, digest)
            return
        path = self._adapters.path_of(version)
        manifest, _ = await asyncio.to_thread(
            read_manifest, Path(path), links_below=self._adapters.adapters_dir
        )
        if manifest.digest != digest:
            raise AdapterCorrupt(
                f"adapters_dir {version.place.path}: the files are of {manifest.digest}"
            )

    def _template_notes(self, manifest: AdapterManifest) -> tuple[str, ...]:
        if manifest.chat_template in (None, self._base_template):
            return ()
        return (
            "chat template: its own, which differs from the base's; it is used where the adapter "
            "alone is asked, and the base's in mixtures and by routers",
        )

    async def _store(self, base_check: BaseCheck | None) -> ContentStore:
        base = await self._replicas.base()
        base = dataclasses.replace(base, folder=self._base_dir)  # theirs, on this machine
        store = content_store(self._config, base, base_check)
        if store is None:
            raise AdapterSourceRefused(
                "nothing can be added: adapters.store_dir is not configured on this cluster"
            )
        return store

    async def _serve(
        self, store: ContentStore, digest: AdapterDigest, change: NameChange, by: TenantId
    ) -> Name:
        if await asyncio.to_thread(store.get, digest) is None:
            raise AdapterConflict(f"version {digest} was being removed; try again")
        answers = await self._replicas.prepare_adapter(digest, self._config.add_timeout_s)
        await self._registry.answered(digest, answers)
        self._judge(answers)
        return await self._point(digest, change, by)

    def _judge(self, answers: tuple[ReplicaAnswer, ...]) -> None:
        """Raise unless enough replicas can serve it."""
        working = sum(answer.outcome.works for answer in answers)
        needed = max(1, min(self._config.acknowledgements or len(answers), len(answers)))
        if working >= needed:
            return
        if not answers:
            raise AdapterLoadFailed(
                "no replica answered whether it can serve the adapter; try again when one is ready"
            )
        summary = f"{working} of {len(answers)} replicas can serve it, {needed} must"
        refused = next((answer for answer in answers if answer.outcome is AddOutcome.REFUSED), None)
        if refused is None:
            raise AdapterLoadFailed(f"{summary}; the others did not answer in time")
        error = error_from_code(refused.code, f"{summary}: {refused.message}")
        raise error if isinstance(error, AdapterError) else AdapterLoadFailed(error.message)

    async def _point(self, digest: AdapterDigest, change: NameChange, by: TenantId) -> Name:
        name = await self._registry.switch(
            change.owner,
            change.alias,
            digest,
            expected=change.expected,
            by=by,
            grants=change.grants,
        )
        log.info("adapters.pointed", name=name.id, digest=digest, by=by)
        return name

    async def _abandon(self, digest: AdapterDigest) -> None:
        try:
            await self._registry.retire_staged(digest)
        except BraidError as error:  # the controller retires it later
            log.warning("adapters.not_abandoned", digest=digest, error=error.message)

    async def _gone(self, digests: set[AdapterDigest], wait_s: float) -> dict[AdapterDigest, bool]:
        """Wait until those that are retired now are collected, at most ``wait_s`` seconds.

        Returns, by digest, whether each of them is.
        """
        view = self._registry.view
        served = VersionState.SERVED
        waited = {d for d in digests if d not in view.versions} | {
            d for d in digests if d in view.versions and view.versions[d].state is not served
        }
        deadline = self._clock.monotonic() + wait_s
        while waited & view.versions.keys() and self._clock.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
            view = await self._registry.sync()
        return {digest: digest not in view.versions for digest in sorted(waited)}
