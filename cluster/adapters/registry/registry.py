"""The registry: names and versions of adapters, for the whole cluster.

Whoever reads looks at ``view``, which never waits. Whoever changes something reads what is new,
judges it, and commits on condition that it is still so; where somebody else was faster it reads
and judges again.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from cluster.adapters.registry import operations, recovery, router_operations
from cluster.adapters.registry.journal import Journal
from cluster.adapters.registry.operations import Transaction
from cluster.adapters.registry.records import AdapterVersion, Name, ReplicaAnswer, Router
from cluster.adapters.registry.recovery import Stored
from cluster.adapters.registry.registry_store import Changes, RegistryStore, Revision
from cluster.adapters.registry.registry_view import RegistryView
from cluster.clock import Clock
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import AdapterConflict, StoreUnavailable

ATTEMPTS = 32


class AdapterRegistry:
    """One per process and event loop.

    Args:
        store: where it is kept; closed by ``close``.
        reserved: names that no adapter may take, beside "auto" and "base": the base model's.
    """

    def __init__(self, store: RegistryStore, clock: Clock, reserved: Iterable[str] = ()) -> None:
        self._store = store
        self._clock = clock
        self._forbidden = frozenset(name.lower() for name in reserved)
        self._view = RegistryView()
        self._reading = asyncio.Lock()
        self._listeners: list[Callable[[RegistryView], None]] = []
        self._read_at: float | None = None  # monotonic, seconds
        self._assumed = False  # the view was never read

    @property
    def view(self) -> RegistryView:
        """The last one known."""
        return self._view

    @property
    def age_s(self) -> float | None:
        """Seconds since the view was last known to be the present one; None: never."""
        return None if self._read_at is None else self._clock.monotonic() - self._read_at

    def on_change(self, listener: Callable[[RegistryView], None]) -> None:
        """Call ``listener`` with every new view."""
        self._listeners.append(listener)

    async def refresh(self, since: float | None = None) -> RegistryView:
        """Read what changed, if anything did.

        Args:
            since: monotonic seconds; a look that began later, somebody else's, will do.

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
        """Return soon after somebody has changed something, at the latest after ``timeout_s``."""
        await self._store.wait(timeout_s)

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    # Changes. Each returns the view that has it; all raise StoreUnavailable, and AdapterConflict
    # where others were faster too often.

    def check_add(self, owner: TenantId, alias: str, expected: AdapterDigest | None) -> None:
        """Refuse at once, by the present view, what ``point`` would refuse in the end.

        Raises:
            AdapterError: the name cannot be one.
            AdapterConflict: it does not point where expected.
        """
        operations.check_alias(self._view, owner, alias, self._forbidden)
        operations.check_expected(self._view, owner, alias, expected)

    async def stage(self, version: AdapterVersion, wanted_by: str) -> RegistryView:
        """See ``operations.stage``."""
        return await self._commit(
            lambda view: operations.stage(view, version, wanted_by, self._clock.wall())
        )

    async def answered(
        self, digest: AdapterDigest, answers: tuple[ReplicaAnswer, ...]
    ) -> RegistryView:
        """See ``operations.answered``."""
        return await self._commit(lambda view: operations.answered(view, digest, answers))

    async def abandon(self, digest: AdapterDigest) -> RegistryView:
        """See ``operations.abandon``."""
        return await self._commit(lambda view: operations.abandon(view, digest, self._clock.wall()))

    async def point(
        self,
        owner: TenantId,
        alias: str,
        digest: AdapterDigest,
        *,
        expected: AdapterDigest | None,
        by: str,
        grants: tuple[str, ...] | None = None,
    ) -> Name:
        """See ``operations.point``; the name may be new."""

        def build(view: RegistryView) -> Transaction:
            operations.check_alias(view, owner, alias, self._forbidden)
            return operations.point(
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
        """See ``operations.roll_back``."""

        def build(view: RegistryView) -> Transaction:
            now = self._clock.wall()
            return operations.roll_back(view, owner, alias, expected=expected, by=by, now=now)

        return (await self._commit(build)).name(owner, alias)

    async def pin(self, owner: TenantId, alias: str, pinned: bool) -> Name:
        """See ``operations.pin``."""
        view = await self._commit(
            lambda view: operations.pin(view, owner, alias, pinned, self._clock.wall())
        )
        return view.name(owner, alias)

    async def remove_name(
        self, owner: TenantId, alias: str, *, expected: AdapterDigest | None, force: bool
    ) -> RegistryView:
        """See ``operations.remove_name``."""

        def build(view: RegistryView) -> Transaction:
            now = self._clock.wall()
            return operations.remove_name(
                view, owner, alias, expected=expected, force=force, now=now
            )

        return await self._commit(build)

    async def remove_version(self, digest: AdapterDigest, *, force: bool) -> RegistryView:
        """See ``operations.remove_version``."""
        return await self._commit(
            lambda view: operations.remove_version(
                view, digest, force=force, now=self._clock.wall()
            )
        )

    async def begin_delete(self, digest: AdapterDigest) -> RegistryView:
        """See ``operations.begin_delete``."""
        return await self._commit(
            lambda view: operations.begin_delete(view, digest, self._clock.wall())
        )

    async def finish_delete(self, digest: AdapterDigest) -> RegistryView:
        """See ``operations.finish_delete``."""
        return await self._commit(lambda view: operations.finish_delete(view, digest))

    async def put_router(self, router: Router, *, replaces: bool) -> Router:
        """See ``router_operations.put_router``."""
        view = await self._commit(
            lambda view: router_operations.put_router(view, router, replaces=replaces)
        )
        return view.routers.get(router.name, router)

    async def identify(self, identity: str) -> RegistryView:
        """See ``recovery.identify``."""
        return await self._commit(lambda view: recovery.identify(view, identity))

    async def restore(self, name: Name, journal: Journal, stored: Stored) -> RegistryView:
        """See ``recovery.restore_name``."""
        return await self._commit(
            lambda view: recovery.restore_name(view, name, journal, stored, self._clock.wall())
        )

    async def restore_rest(self, journal: Journal) -> RegistryView:
        """See ``recovery.restore_rest``."""
        return await self._commit(
            lambda view: recovery.restore_rest(view, journal, self._clock.wall())
        )

    async def condemn(self, orphan: AdapterVersion) -> RegistryView:
        """See ``recovery.condemn``."""
        return await self._commit(lambda view: recovery.condemn(view, orphan, self._clock.wall()))

    async def remove_router(self, name: str) -> RegistryView:
        """See ``router_operations.remove_router``."""
        return await self._commit(lambda view: router_operations.remove_router(view, name))

    def assume_folder(self, versions: Mapping[str, AdapterVersion]) -> None:
        """Take the configured folder for all there is, until the store answers."""
        view = RegistryView()
        for alias, version in sorted(versions.items()):
            transaction = operations.sync_folder(view, alias, version, self._clock.wall())
            view = view.after(Changes(Revision(), False, transaction.write))
        self._assumed = True
        self._show(view)

    async def sync_folder(self, versions: Mapping[str, AdapterVersion]) -> RegistryView:
        """Bring in what the configured folder has, by alias; see ``operations.sync_folder``."""
        view = await self.refresh()
        for alias in sorted(versions.keys() | view.folder.keys()):
            await self._commit(
                lambda view, alias=alias: operations.sync_folder(  # type: ignore[misc]
                    view, alias, versions.get(alias), self._clock.wall()
                )
            )
        return self._view

    async def _commit(self, build: Callable[[RegistryView], Transaction]) -> RegistryView:
        for _ in range(ATTEMPTS):
            view = await self.refresh()
            transaction = build(view)
            if not transaction.write:
                return view
            committed = await self._store.commit(transaction.expect, transaction.write)
            if committed is not None:
                return await self._refresh_to(committed)
        raise AdapterConflict("the adapter registry is being changed by many at once; try again")

    async def _refresh_to(self, committed: Revision) -> RegistryView:
        """What was committed stands, even where it cannot be read back now."""
        try:
            return await self.refresh()
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
