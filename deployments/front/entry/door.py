"""The first steps of every request with a key: the key, one unit of rate, then the body."""

from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request

from cluster.clock import Clock
from cluster.config import FrontConfig
from cluster.errors import AuthenticationFailed, PermissionDenied, TooManyFailedKeys
from cluster.tenancy.tenants import Tenant
from deployments.front.entry.body import BodyReader
from deployments.front.entry.failed_keys import FailedKeys
from deployments.front.entry.heavy import HeavyWork
from deployments.front.openai.wire import Body
from deployments.front.requests.admission import Admission

B = TypeVar("B", bound=Body)


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
        admission: Admission,
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
        """The tenant who asks, charged one request.

        Raises:
            AuthenticationFailed: no key, or an unknown one.
            TooManyFailedKeys: the same, once too often from this address.
            RefusedByQuota: the tenant's requests of this minute are used up.
        """
        tenant = self.known(request)
        await self.charge(tenant)
        return tenant

    async def charge(self, tenant: Tenant) -> None:
        """Charge one request. Raises RefusedByQuota where there is none left."""
        await self._admission.enter(tenant)

    async def enter_admin(self, request: Request) -> Tenant:
        """The administrator who asks, charged one request.

        Raises:
            PermissionDenied: the key of a tenant that is none; also as ``enter``.
        """
        tenant = await self.enter(request)
        if not tenant.admin:
            raise PermissionDenied("this needs an administrator's key")
        return tenant

    def known(self, request: Request) -> Tenant:
        """The tenant who asks, charged nothing. Raises as ``enter``, but for the quota."""
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
        """See ``BodyReader.read``."""
        return await self._bodies.read(request, tenant.id, kind)

    async def read_exact(self, request: Request, tenant: Tenant, kind: type[B]) -> B:
        """See ``BodyReader.read_exact``."""
        return await self._bodies.read_exact(request, tenant.id, kind)
