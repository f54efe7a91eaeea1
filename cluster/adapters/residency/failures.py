"""Failed loads that are remembered for a while, so that nobody pays for them again at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cluster.clock import Clock
from cluster.domain.ids import AdapterDigest
from cluster.errors import AdapterError, AdapterLoadFailed, error_from_code


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed load that is remembered for a while."""

    alias: str
    code: str
    message: str
    retry_at: float  # monotonic seconds

    def error(self) -> AdapterError:
        """As it was raised then."""
        error = error_from_code(self.code, self.message)
        return error if isinstance(error, AdapterError) else AdapterLoadFailed(self.message)


class FailureMemory:
    """By version, each until its time is over."""

    def __init__(self, ttl_s: float, clock: Clock) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._failures: dict[AdapterDigest, Failure] = {}

    def remember(self, digest: AdapterDigest, alias: str, error: AdapterError) -> None:
        """A load has failed just now."""
        until = self._clock.monotonic() + self._ttl_s
        self._failures[digest] = Failure(alias, error.code, error.message, until)

    def expire(self, digest: AdapterDigest) -> Failure | None:
        """Forget the failure of a version if its time is over; what was forgotten."""
        failure = self._failures.get(digest)
        if failure is None or self._clock.monotonic() < failure.retry_at:
            return None
        return self._failures.pop(digest)

    def get(self, digest: AdapterDigest) -> Failure | None:
        """What is remembered of a version; ``expire`` first."""
        return self._failures.get(digest)

    def all(self) -> Mapping[AdapterDigest, Failure]:
        """Everything remembered."""
        return MappingProxyType(self._failures)
