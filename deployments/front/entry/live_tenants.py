"""Decides who may call, by the tenants file's last good content."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from cluster.clock import Clock
from cluster.domain.ids import TenantId
from cluster.tenancy.followed_tenants import FollowedTenants
from cluster.tenancy.tenants import Tenant, TenantDirectory
from deployments.front.telemetry.request_log import current_record

log = structlog.get_logger(__name__)

SETTLE_S = 0.2
"""Seconds from the look that finds other content to the look that may confirm it."""
MAX_DEPARTED = 1000


@dataclass(frozen=True, slots=True)
class TenantsFileState:
    """Describes what is in force, as ``/admin/v1/status`` tells it."""

    loaded_at: float  # wall clock, seconds: when the content that is in force was taken
    error: str | None  # what is wrong with the file's present content, which is not in force


class LiveTenants:
    """Holds the tenants of a front; a change replaces all of them at once.

    A tenant that is gone from the file is refused from then on. Its running requests keep the
    rights that it had.

    Args:
        file: read in a thread.
        interval_s: seconds between two looks.
        on_change: told each new directory.
    """

    def __init__(
        self,
        file: FollowedTenants,
        clock: Clock,
        interval_s: float,
        on_change: Callable[[TenantDirectory], None],
    ) -> None:
        self._file = file
        self._clock = clock
        self._interval_s = interval_s
        self._on_change = on_change
        self._directory = file.directory
        self._loaded_at = clock.wall()
        self._error: str | None = None
        self._departed: dict[TenantId, Tenant] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def tenants(self) -> tuple[Tenant, ...]:
        """Return the tenants, in the file's order."""
        return self._directory.tenants

    @property
    def state(self) -> TenantsFileState:
        """Return what is in force, and what is wrong with the file."""
        return TenantsFileState(self._loaded_at, self._error)

    def authenticate(self, authorization: str | None) -> Tenant:
        """Return the tenant of an ``Authorization`` header, and note it in the request's log line.

        Raises:
            AuthenticationFailed: no header, another scheme, or an unknown key.
        """
        tenant = self._directory.authenticate(authorization)
        current_record().tenant = tenant.id
        return tenant

    def tenant(self, tenant: TenantId) -> Tenant:
        """Find a tenant by its id; a removed one as it last was.

        Raises:
            KeyError: there never was one.
        """
        return self._directory.find(tenant) or self._departed[tenant]

    def weight(self, tenant: TenantId) -> float | None:
        """Return a tenant's weight; a removed one's as it last was, None if it is not known."""
        found = self._directory.find(tenant) or self._departed.get(tenant)
        return None if found is None else found.weight

    def start(self) -> None:
        """Follow the file until ``close``."""
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def refresh(self) -> None:
        """Look at the file once."""
        change = await asyncio.to_thread(self._file.sync)
        if self._file.error != self._error:
            self._error = self._file.error
            if self._error is not None:
                log.error("tenants.refused", reason=self._error, kept="the last good content")
        if change is None:
            return
        for gone in change.removed:
            found = self._directory.find(gone)
            if found is not None:
                self._departed[gone] = found
        while len(self._departed) > MAX_DEPARTED:
            del self._departed[next(iter(self._departed))]
        self._directory = self._file.directory
        self._loaded_at = self._clock.wall()
        log.info(
            "tenants.changed", added=change.added, removed=change.removed, changed=change.changed
        )
        self._on_change(self._directory)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(SETTLE_S if self._file.unsettled else self._interval_s)
            try:
                await self.refresh()
            except Exception as error:  # what is in force stays in force
                log.error("tenants.not_followed", exc_info=error)
