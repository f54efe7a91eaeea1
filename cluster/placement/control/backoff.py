"""Failed prefetches are tried again after waits that double."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.domain.ids import AdapterDigest, ReplicaId


@dataclass(frozen=True, slots=True)
class PrefetchFailure:
    """The latest failure of one adapter on one replica."""

    replica_id: ReplicaId
    digest: AdapterDigest
    attempts: int
    retry_at: float
    message: str


class PrefetchBackoff:
    """Remembers (replica, adapter) pairs that failed; one owner. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._failures: dict[tuple[ReplicaId, AdapterDigest], PrefetchFailure] = {}

    def failed(
        self,
        replica_id: ReplicaId,
        digest: AdapterDigest,
        message: str,
        now: float,
        *,
        first_s: float,
        most_s: float,
    ) -> PrefetchFailure:
        """Record a failure; the wait is ``first_s * 2**(attempts - 1)``, at most ``most_s``."""
        before = self._failures.get((replica_id, digest))
        attempts = before.attempts + 1 if before else 1
        wait = min(most_s, first_s * 2.0 ** min(attempts - 1, 60))
        failure = PrefetchFailure(replica_id, digest, attempts, now + wait, message)
        self._failures[replica_id, digest] = failure
        return failure

    def succeeded(self, replica_id: ReplicaId, digest: AdapterDigest) -> None:
        """Forget the pair's failures."""
        self._failures.pop((replica_id, digest), None)

    def retain(self, replicas: Iterable[ReplicaId], adapters: Iterable[AdapterDigest]) -> None:
        """Forget replicas and adapters that are gone."""
        alive, listed = set(replicas), set(adapters)
        self._failures = {
            (replica_id, digest): failure
            for (replica_id, digest), failure in self._failures.items()
            if replica_id in alive and digest in listed
        }

    def avoid(self, now: float) -> frozenset[tuple[ReplicaId, AdapterDigest]]:
        """Return the pairs whose wait is not over."""
        return frozenset(key for key, f in self._failures.items() if f.retry_at > now)

    def describe(self, aliases: Mapping[AdapterDigest, str], now: float) -> list[dict[str, Any]]:
        """Return the failures for the admin API."""
        return [
            {
                "replica": f.replica_id,
                "digest": f.digest,
                "adapter": aliases.get(f.digest, ""),
                "attempts": f.attempts,
                "retry_in_s": round(max(0.0, f.retry_at - now), 3),
                "message": f.message,
            }
            for _, f in sorted(self._failures.items())
        ]
