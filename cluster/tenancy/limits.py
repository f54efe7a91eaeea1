"""Limits of a tenant, and the arithmetic of its buckets."""

import math
from dataclasses import dataclass
from enum import StrEnum

from cluster.clock import Clock
from cluster.domain.ids import TenantId
from cluster.errors import QuotaExceeded

MINUTE_MS = 60_000
SLACK = 1e-6
"""Levels are floating-point sums: a bucket this close to the need is full enough."""
DEBT_MINUTES = 10
"""Most that running requests may still generate beyond what was reserved for them, in minutes of
the tenant's tokens."""
FREE_SEQUENCES = 8
"""So many sequences of a tenant may run whatever they may still generate."""


@dataclass(frozen=True, slots=True)
class QuotaLimits:
    """Limits of one tenant; None means unlimited."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None

    @property
    def unlimited(self) -> bool:
        """Report whether nothing needs to be counted."""
        return (
            self.requests_per_minute is None
            and self.tokens_per_minute is None
            and self.max_concurrent is None
        )


@dataclass(frozen=True, slots=True)
class QuotaAsk:
    """The share of its tenant's limits that a running request takes."""

    places: int = 1  # sequences
    expected: int = 0  # tokens of the prompts and of probable answers, reserved at once
    at_most: int = 0  # tokens of the prompts and of the longest answers allowed

    @property
    def exposure(self) -> int:
        """Return the tokens that it may use beyond those reserved."""
        return max(0, self.at_most - self.expected)


class QuotaSource(StrEnum):
    """The place where quota was counted."""

    UNLIMITED = "unlimited"  # nowhere: the tenant has no limits
    SHARED = "shared"  # Redis, for all fronts together
    LOCAL = "local"  # this process alone


REFUSALS = (None, "concurrent requests", "requests", "tokens", "tokens in flight")
"""By the number that the scripts answer."""


@dataclass(frozen=True, slots=True)
class BucketState:
    """One bucket after a reservation."""

    limit: int  # per minute, also the most it holds
    remaining: int  # never below 0
    reset_s: float  # seconds until it is full again


@dataclass(frozen=True, slots=True)
class QuotaVerdict:
    """The answer to a reservation; give it back to ``settle`` when the request ends."""

    tenant: TenantId
    reservation_id: str
    limits: QuotaLimits
    allowed: bool
    source: QuotaSource
    ask: QuotaAsk = QuotaAsk()
    refused: str | None = None  # one of ``REFUSALS``
    requests: BucketState | None = None  # None: no such limit
    tokens: BucketState | None = None
    in_flight: int = 0  # sequences, this request's included when allowed
    retry_after_s: float = 0.0  # of a refusal
    unsure: bool = False  # counted locally, but Redis may have counted it too

    def raise_if_refused(self) -> None:
        """Turn a refusal into its error.

        Raises:
            QuotaExceeded: with the limit and when to try again.
        """
        if self.allowed:
            return
        reason = {
            "concurrent requests": f"{self.limits.max_concurrent} sequences at once",
            "requests": f"{self.limits.requests_per_minute} requests per minute",
            "tokens": f"{self.limits.tokens_per_minute} tokens per minute",
            "tokens in flight": (
                f"{self.limits.tokens_per_minute} tokens per minute, and running requests may "
                f"still generate {DEBT_MINUTES} minutes of them; send a smaller max_tokens"
            ),
        }[self.refused or "requests"]
        raise QuotaExceeded(
            f"Rate limit reached for tenant '{self.tenant}': {reason}. "
            f"Try again in {duration(self.retry_after_s)}"
        )

    def headers(self) -> dict[str, str]:
        """Return ``x-ratelimit-*``, and ``retry-after`` (whole seconds) on a refusal."""
        headers: dict[str, str] = {}
        for name, state in (("requests", self.requests), ("tokens", self.tokens)):
            if state is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(state.limit)
                headers[f"x-ratelimit-remaining-{name}"] = str(state.remaining)
                headers[f"x-ratelimit-reset-{name}"] = duration(state.reset_s)
        if not self.allowed:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        return headers


def wall_ms(clock: Clock) -> int:
    """Return the wall clock in whole milliseconds, the buckets' unit of time."""
    return round(clock.wall() * 1000)


def refilled(level: float, elapsed_ms: float, per_minute: int) -> float:
    """Return a bucket's level after ``elapsed_ms``; time that goes back counts as none."""
    return min(float(per_minute), level + max(0.0, elapsed_ms) * per_minute / MINUTE_MS)


def ms_until(level: float, need: float, per_minute: int) -> int:
    """Return the milliseconds until a bucket holds ``need``."""
    return max(0, math.ceil((need - level) * MINUTE_MS / per_minute - SLACK))


def bucket_state(level: float, per_minute: int) -> BucketState:
    """Return the state of a bucket for its tenant."""
    return BucketState(
        limit=per_minute,
        remaining=max(0, math.floor(level + SLACK)),
        reset_s=ms_until(level, per_minute, per_minute) / 1000,
    )


def duration(seconds: float) -> str:
    """Format a duration as rate-limit headers write it: ``12ms``, ``1.5s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:g}s" if seconds < 10 else f"{math.ceil(seconds)}s"
    whole = math.ceil(seconds)
    return f"{whole // 60}m{whole % 60}s"
