"""Keeps the names and versions of adapters for the whole cluster.

Reading uses ``view``, which never waits. A change syncs the view, builds a transaction from it, and
commits on condition that the view is still true. If another process was faster, it starts again.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from cluster.adapters.registry import operations, recovery, router_operations
from cluster.adapters.registry.journal import Journal
from cluster.adapters.registry.operations import Transaction
from cluster.adapters.registry.records import AdapterVersion, Name, ReplicaAnswer, RouterRecord
from cluster.adapters.registry.recovery import Stored
from cluster.adapters.registry.registry_store import Changes, RegistryStore, Revision
from cluster.adapters.registry.registry_view import RegistryView
from cluster.clock import Clock
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import AdapterConflict, StoreUnavailable

ATTEMPTS = 32


class AdapterRegistry:
    """Reads and changes the registry; one per process and event loop.

    Args:
        store: where it is kept; closed by ``close``.
        reserved: names of the base model, which no adapter may take; nor "auto" or "base".
    """

    def __init__(self, store: RegistryStore, clock: Clock, reserved: Iterable[str] = ()) -> None:
        self._store = store
        self._clock = clock
        self._forbidden = frozenset(name.lower() for name in reserved)
        self._view = RegistryView()
        self._reading = asyncio.Lock()
        self._listeners: list[Callable[[RegistryView], None]] = []
        self._read_at: float | None = None  # monotonic, seconds
        self._assumed = False  # the view was not read from the store

    @property
    def view(self) -> RegistryView:
        """The last view read."""
        return self._view

    @property
    def age_s(self) -> float | None:
        """Seconds since the view was last known to be up to date, or None if it never was."""
        return None if self._read_at is None else self._clock.monotonic() - self._read_at

    def on_change(self, listener: Callable[[RegistryView], None]) -> None:
        """Call ``listener`` with every new view."""
        self._listeners.append(listener)

    async def sync(self, since: float | None = None) -> RegistryView:
        """Bring the view up to date and return it.

        Args:
            since: monotonic seconds; a sync by another task that began later will do.

        Raises:
            StoreUnavailable: the view stays as it is.
        """
        async with self._reading:
            if since is None or self._read_at is None or self._read_at <= since:
                begun = self._clock.monotonic()
                if self._assumed or await self._store.revision() != self._view.revision:
                    await self._read()
                self._read_at = begun
            return self._view

    async def wait(self, timeout_s: float) -> None:
        """Return soon after a change by any process, at the latest after ``timeout_s``."""
        await self._store.wait(timeout_s)

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    # Changes. Each returns the view that has it; all raise StoreUnavailable, and AdapterConflict
    # if other processes were faster too often.

    def check_add(self, owner: TenantId, alias: str, expected: AdapterDigest | None) -> None:
        """Refuse early, by the present view, a name that ``switch`` would refuse in the end.

        Raises:
            AdapterError: the name cannot be one.
            AdapterConflict: it does not point where expected.
        """
        operations.check_alias(self._view, owner, alias, self._forbidden)
        operations.check_expected(self._view, owner, alias, expected)

    async def stage(self, version: AdapterVersion, wanted_by: str) -> RegistryView:
        """Register a version without a name; see ``operations.stage``."""
        return await self._commit(
            lambda view: operations.stage(view, version, wanted_by, self._clock.wall())
        )

    async def answered(
        self, digest: AdapterDigest, answers: tuple[ReplicaAnswer, ...]
    ) -> RegistryView:
        """Record the replicas' answers about a staged version."""
        return await self._commit(lambda view: operations.answered(view, digest, answers))

    async def retire_staged(self, digest: AdapterDigest) -> RegistryView:
        """Retire a staged version that will not be served."""
        return await self._commit(
            lambda view: operations.retire_staged(view, digest, self._clock.wall())
        )

    async def switch(
        self,
        owner: TenantId,
        alias: str,
        digest: AdapterDigest,
        *,
        expected: AdapterDigest | None,
        by: str,
        grants: tuple[str, ...] | None = None,
    ) -> Name:
        """Switch a name, which may be new, to a version; see ``operations.switch``."""

        def build(view: RegistryView) -> Transaction:
            operations.check_alias(view, owner, alias, self._forbidden)
            return operations.switch(
                view,
                owner,
                alias,
                digest,
                expected=expected,
                by=by,
                now=self._clock.wall(),
                grants=grants,
            )

        return (await self._commit(build)).name(owner, alias)

    async def roll_back(
        self, owner: TenantId, alias: str, *, expected: AdapterDigest | None, by: str
    ) -> Name:
        """Switch a name back to its previous version; see ``operations.roll_back``."""

        def build(view: RegistryView) -> Transaction:
            now = self._clock.wall()
            return operations.roll_back(view, owner, alias, expected=expected, by=by, now=now)

        return (await self._commit(build)).name(owner, alias)

    async def pin_name(self, owner: TenantId, alias: str, pinned: bool) -> Name:
        """Pin a name's version to every replica, or end that."""
        view = await self._commit(
            lambda view: operations.pin_name(view, owner, alias, pinned, self._clock.wall())
        )
        return view.name(owner, alias)

    async def remove_name(
        self, owner: TenantId, alias: str, *, expected: AdapterDigest | None, force: bool
    ) -> RegistryView:
        """Remove a name; see ``operations.remove_name``."""

        def build(view: RegistryView) -> Transaction:
            now = self._clock.wall()
            return operations.remove_name(
                view, owner, alias, expected=expected, force=force, now=now
            )

        return await self._commit(build)

    async def retire_version(self, digest: AdapterDigest, *, force: bool) -> RegistryView:
        """Remove a version from all names; see ``operations.retire_version``."""
        return await self._commit(
            lambda view: operations.retire_version(
                view, digest, force=force, now=self._clock.wall()
            )
        )

    async def begin_collect(self, digest: AdapterDigest) -> RegistryView:
        """Mark a retired version as being collected; see ``operations.begin_collect``."""
        return await self._commit(
            lambda view: operations.begin_collect(view, digest, self._clock.wall())
        )

    async def finish_collect(self, digest: AdapterDigest) -> RegistryView:
        """Remove the record of a version once its files are gone."""
        return await self._commit(lambda view: operations.finish_collect(view, digest))

    async def put_router(self, router: RouterRecord, *, replaces: bool) -> RouterRecord:
        """Register or replace a router; see ``router_operations.put_router``."""
        view = await self._commit(
            lambda view: router_operations.put_router(view, router, replaces=replaces)
        )
        return view.routers.get(router.name, router)

    async def identify(self, identity: str) -> RegistryView:
        """Give the registry its identity; see ``recovery.identify``."""
        return await self._commit(lambda view: recovery.identify(view, identity))

    async def restore(self, name: Name, journal: Journal, stored: Stored) -> RegistryView:
        """Restore a name from the journal; see ``recovery.restore_name``."""
        return await self._commit(
            lambda view: recovery.restore_name(view, name, journal, stored, self._clock.wall())
        )

    async def restore_rest(self, journal: Journal) -> RegistryView:
        """Restore routers, and removals; see ``recovery.restore_rest``."""
        return await self._commit(
            lambda view: recovery.restore_rest(view, journal, self._clock.wall())
        )

    async def collect_orphan(self, orphan: AdapterVersion) -> RegistryView:
        """Register files without a record as being collected."""
        return await self._commit(
            lambda view: recovery.collect_orphan(view, orphan, self._clock.wall())
        )

    async def remove_router(self, name: str) -> RegistryView:
        """Remove a router; see ``router_operations.remove_router``."""
        return await self._commit(lambda view: router_operations.remove_router(view, name))

    def assume_folder(self, versions: Mapping[str, AdapterVersion]) -> None:
        """Serve the configured folder alone, until the store answers."""
        view = RegistryView()
        for alias, version in sorted(versions.items()):
            transaction = operations.sync_folder(view, alias, version, self._clock.wall())
            view = view.after(Changes(Revision(), False, transaction.write))
        self._assumed = True
        self._show(view)

    async def sync_folder(self, versions: Mapping[str, AdapterVersion]) -> RegistryView:
        """Register the configured folder's adapters, by alias; see ``operations.sync_folder``."""
        view = await self.sync()
        for alias in sorted(versions.keys() | view.folder.keys()):
            await self._commit(
                lambda view, alias=alias: operations.sync_folder(  # type: ignore[misc]
                    view, alias, versions.get(alias), self._clock.wall()
                )
            )
        return self._view

    async def _commit(self, build: Callable[[RegistryView], Transaction]) -> RegistryView:
        for _ in range(ATTEMPTS):
            view = await self.sync()
            transaction = build(view)
            if not transaction.write:
                return view
            committed = await self._store.commit(transaction.expect, transaction.write)
            if committed is not None:
                return await self._sync_to(committed)
        raise AdapterConflict(
            "the adapter registry is being changed by many processes at once; try again"
        )

    async def _sync_to(self, committed: Revision) -> RegistryView:
        """Sync after a commit, which stands even if it cannot be read back now."""
        try:
            return await self.sync()
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"the change was made (revision {committed.number}), but {error.message}"
            ) from error

    async def _read(self) -> None:
        start = RegistryView() if self._assumed else self._view
        changes = await self._store.changes(start.revision)
        self._assumed = False
        self._show(start.after(changes))

    def _show(self, view: RegistryView) -> None:
        self._view = view
        for listener in self._listeners:
            listener(view)
