"""Takes the first steps of every request with a key: the key, one unit of rate, the body."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from pydantic import BaseModel
from starlette.requests import Request

from cluster.clock import Clock
from cluster.config import FrontConfig
from cluster.errors import AuthenticationFailed, PermissionDenied, TooManyFailedKeys
from cluster.tenancy.tenants import Tenant
from deployments.front.entry.body import BodyReader
from deployments.front.entry.failed_keys import FailedKeys
from deployments.front.entry.heavy import HeavyWork

B = TypeVar("B", bound=BaseModel)


class RateLimit(Protocol):
    """Charges tenants for requests."""

    async def enter(self, tenant: Tenant) -> None:
        """Charge one request. Raises QuotaExceeded if none is left."""
        ...


class Door:
    """Lets requests in, one step after the other.

    Args:
        authenticate: the tenant of a request's key; raises AuthenticationFailed.
        work: where large bodies are parsed.
    """

    def __init__(
        self,
        *,
        authenticate: Callable[[Request], Tenant],
        admission: RateLimit,
        work: HeavyWork,
        config: FrontConfig,
        clock: Clock,
    ) -> None:
        self._authenticate = authenticate
        self._admission = admission
        self._bodies = BodyReader(config.max_body_bytes, work)
        self._failed = FailedKeys(config.failed_keys_per_minute)
        self._clock = clock

    async def enter(self, request: Request) -> Tenant:
        """Authenticate a request and charge its tenant for it.

        Raises:
            AuthenticationFailed: no key, or an unknown one.
            TooManyFailedKeys: the same, once too often from this address.
            RefusedByQuota: the tenant's requests of this minute are used up.
        """
        tenant = self.known(request)
        await self.charge(tenant)
        return tenant

    async def charge(self, tenant: Tenant) -> None:
        """Charge one request. Raises RefusedByQuota if none is left."""
        await self._admission.enter(tenant)

    async def enter_admin(self, request: Request) -> Tenant:
        """Authenticate an administrator's request and charge for it.

        Raises:
            PermissionDenied: the tenant of the key is not an administrator; also as ``enter``.
        """
        tenant = await self.enter(request)
        if not tenant.admin:
            raise PermissionDenied("this needs an administrator's key")
        return tenant

    def known(self, request: Request) -> Tenant:
        """Authenticate a request without charging it. Raises as ``enter``, but for the quota."""
        try:
            return self._authenticate(request)
        except AuthenticationFailed as error:
            address = request.client.host if request.client is not None else ""
            if self._failed.charge(address, self._clock.monotonic()):
                raise
            raise TooManyFailedKeys(
                "too many unknown keys came from this address: send a valid key, or wait a minute"
            ) from error

    async def read(self, request: Request, tenant: Tenant, kind: type[B]) -> B:
        """Read the body, as ``BodyReader.read`` does."""
        return await self._bodies.read(request, tenant.id, kind)

    async def read_exact(self, request: Request, tenant: Tenant, kind: type[B]) -> B:
        """Read the body, as ``BodyReader.read_exact`` does."""
        return await self._bodies.read_exact(request, tenant.id, kind)
