"""Remembers failed loads for a while, so that requests do not repeat them at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cluster.clock import Clock
from cluster.domain.ids import AdapterDigest
from cluster.errors import AdapterError, AdapterLoadFailed, error_from_code


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """A failed load that is remembered for a while."""

    alias: str
    code: str
    message: str
    retry_at: float  # monotonic seconds

    def error(self) -> AdapterError:
        """Return the error that the load raised."""
        error = error_from_code(self.code, self.message)
        return error if isinstance(error, AdapterError) else AdapterLoadFailed(self.message)


class FailureMemory:
    """Keeps one failure per version, each for ``ttl_s`` seconds."""

    def __init__(self, ttl_s: float, clock: Clock) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._failures: dict[AdapterDigest, LoadFailure] = {}

    def remember(self, digest: AdapterDigest, alias: str, error: AdapterError) -> None:
        """Record that a load has failed just now."""
        until = self._clock.monotonic() + self._ttl_s
        self._failures[digest] = LoadFailure(alias, error.code, error.message, until)

    def expire(self, digest: AdapterDigest) -> LoadFailure | None:
        """Remove a version's failure if its time is over. Returns it, or None if none expired."""
        failure = self._failures.get(digest)
        if failure is None or self._clock.monotonic() < failure.retry_at:
            return None
        return self._failures.pop(digest)

    def get(self, digest: AdapterDigest) -> LoadFailure | None:
        """Return the failure of a version, or None; call ``expire`` first."""
        return self._failures.get(digest)

    def all(self) -> Mapping[AdapterDigest, LoadFailure]:
        """Return every remembered failure, by version."""
        return MappingProxyType(self._failures)
