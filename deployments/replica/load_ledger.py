"""Cumulative load of one replica, by adapter and tenant; placement goes by it."""

from dataclasses import dataclass

from cluster.domain.ids import BASE, AdapterDigest, TenantId
from cluster.domain.replica import AdapterLoad
from deployments.replica.replica_request import ReplicaRequest


@dataclass(slots=True)
class _Load:
    arrived: int = 0
    tokens: int = 0


class LoadLedger:
    """Counts requests and tokens for each adapter that they were computed with.

    A request without adapters counts for ``BASE``.
    """

    def __init__(self) -> None:
        self._loads: dict[tuple[AdapterDigest, TenantId], _Load] = {}

    def loads(self) -> tuple[AdapterLoad, ...]:
        """Return the load of every adapter and tenant, in a stable order."""
        return tuple(
            AdapterLoad(digest, tenant, load.arrived, load.tokens)
            for (digest, tenant), load in sorted(self._loads.items())
        )

    def count_arrival(self, request: ReplicaRequest) -> None:
        """Count a request for the adapters of its newest decision."""
        assert request.newest is not None
        for digest in request.newest.digests or (BASE,):
            self._loads.setdefault((digest, request.tenant), _Load()).arrived += 1

    def credit_tokens(self, request: ReplicaRequest) -> None:
        """Credit a request's newest tokens to the adapters that they were computed with."""
        if request.newest is not None:
            for digest in request.newest.digests or (BASE,):
                self._loads[digest, request.tenant].tokens += request.tokens - request.credited
        request.credited = request.tokens

    def drop(self, digest: AdapterDigest) -> None:
        """Drop the counts of a version that was unloaded; no live request may use it."""
        for key in [key for key in self._loads if key[0] == digest]:
            del self._loads[key]
