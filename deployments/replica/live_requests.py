"""The live requests of one replica, and how many of them wait for its engine."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping

from cluster.domain.ids import AdapterDigest, RequestId, TenantId
from cluster.tenancy.waiting_tenants import WaitingTenants
from deployments.replica.replica_request import ReplicaRequest


class LiveRequests(Mapping[RequestId, ReplicaRequest]):
    """Requests by id, from their arrival until their last chunk.

    Args:
        max_waiting: requests that may wait for their adapters at once; see ``WaitingTenants``.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._requests: dict[RequestId, ReplicaRequest] = {}
        self._waiting = WaitingTenants(max_waiting)  # not in the engine
        self._idle = asyncio.Event()
        self._idle.set()

    def __getitem__(self, request_id: RequestId) -> ReplicaRequest:
        return self._requests[request_id]

    def __iter__(self) -> Iterator[RequestId]:
        return iter(self._requests)

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def waiting(self) -> int:
        """Return the number of requests that the engine does not know yet."""
        return self._waiting.total

    def backlog(self) -> Mapping[TenantId, int]:
        """Return the prompt tokens of requests that the engine does not know yet, by tenant."""
        tokens: Counter[TenantId] = Counter()
        for request in self._requests.values():
            if not request.in_engine:
                tokens[request.tenant] += len(request.prompt)
        return tokens

    def is_full_for(self, request: ReplicaRequest) -> bool:
        """Report whether a request that has arrived must be refused."""
        return self._waiting.is_full_for(request.tenant, request.weight)

    def add(self, request: ReplicaRequest) -> None:
        """Add a request that has arrived; it waits."""
        self._requests[request.id] = request
        self._waiting.add(request.tenant, request.weight)
        self._idle.clear()

    def remove(self, request: ReplicaRequest) -> None:
        """Remove a request that has ended."""
        del self._requests[request.id]
        if not request.in_engine:
            self._waiting.remove(request.tenant)
        if not self._requests:
            self._idle.set()

    def enter_engine(self, request: ReplicaRequest) -> None:
        """Count a request as one in the engine, which waits no longer."""
        request.in_engine = True
        self._waiting.remove(request.tenant)

    def leave_engine(self, request: ReplicaRequest) -> None:
        """Count a request as waiting again."""
        request.in_engine = False
        self._waiting.add(request.tenant, request.weight)

    def has(self, request: ReplicaRequest) -> bool:
        """Report whether this very request has not ended."""
        return self._requests.get(request.id) is request

    def uses(self, digest: AdapterDigest) -> bool:
        """Report whether a request has been decided on this version, or may have been."""
        return any(request.may_use(digest) for request in self._requests.values())

    def uses_router(self, version: str) -> bool:
        """Report whether a request has been decided by this router, or may have been."""
        return any(
            request.decision is None or request.decision.router_version == version
            for request in self._requests.values()
        )

    def check_integrity(self) -> None:
        """Verify that the counted requests are those that are not in the engine.

        Raises:
            IntegrityError: with both numbers.
        """
        self._waiting.check_integrity(
            request.tenant for request in self._requests.values() if not request.in_engine
        )

    async def wait_idle(self) -> None:
        """Wait until there is none."""
        await self._idle.wait()
