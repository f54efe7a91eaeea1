"""Meters usage: tokens per tenant and adapter, in whole tokens that add up exactly.

The tokens of a request are shared among its adapters by ``|weight|`` and rounded by largest
remainder, so the sums over adapters always equal the totals. A request without an adapter, or
with weights that are all zero, is credited to the base (digest "").
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from cluster.domain.adapter import WeightedAdapter
from cluster.domain.ids import BASE, AdapterDigest, TenantId
from cluster.domain.request import Outcome, Usage
from cluster.errors import IntegrityError

REMOVED = AdapterDigest("removed")
"""Stands for all versions that were removed."""


@dataclass(frozen=True, slots=True)
class TenantUsage:
    """One tenant's totals since the meter was made."""

    tenant: TenantId
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class AdapterUsage:
    """One tenant's use of one adapter."""

    tenant: TenantId
    digest: AdapterDigest  # "" is the base without an adapter
    alias: str
    requests: int = 0  # that had it in their mixture; a mixture counts once for each
    prompt_tokens: int = 0  # its share
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class MeterSnapshot:
    """All counters at one moment, sorted."""

    tenants: tuple[TenantUsage, ...]
    adapters: tuple[AdapterUsage, ...]
    outcomes: tuple[tuple[TenantId, Outcome, int], ...]


class Meter:
    """Counters that only grow."""

    def __init__(self) -> None:
        self._tenants: dict[TenantId, TenantUsage] = {}
        self._adapters: dict[tuple[TenantId, AdapterDigest], AdapterUsage] = {}
        self._outcomes: dict[tuple[TenantId, Outcome], int] = {}

    def record(
        self,
        tenant: TenantId,
        outcome: Outcome,
        usage: Usage | None = None,
        mixture: Sequence[WeightedAdapter] = (),
    ) -> None:
        """Count one ended request; ``usage`` is None when it never ran."""
        self.record_parts(tenant, outcome, ((usage or Usage(0, 0), mixture),))

    def record_parts(
        self,
        tenant: TenantId,
        outcome: Outcome,
        parts: Sequence[tuple[Usage, Sequence[WeightedAdapter]]],
    ) -> None:
        """Count one ended request whose tokens were computed with several mixtures."""
        self._outcomes[tenant, outcome] = self._outcomes.get((tenant, outcome), 0) + 1
        total = self._tenants.get(tenant, TenantUsage(tenant))
        self._tenants[tenant] = replace(
            total,
            requests=total.requests + 1,
            prompt_tokens=total.prompt_tokens + sum(spent.prompt_tokens for spent, _ in parts),
            completion_tokens=total.completion_tokens
            + sum(spent.completion_tokens for spent, _ in parts),
        )
        counted: set[AdapterDigest] = set()
        for spent, mixture in parts:
            weights: dict[AdapterDigest, Fraction] = {}
            aliases: dict[AdapterDigest, str] = {}
            for term in mixture:
                digest = term.key.digest
                weights[digest] = weights.get(digest, Fraction(0)) + abs(Fraction(term.weight))
                aliases.setdefault(digest, term.key.alias)
            if not any(weights.values()):
                weights, aliases = {BASE: Fraction(1)}, {BASE: ""}
            prompt = share(spent.prompt_tokens, weights)
            completion = share(spent.completion_tokens, weights)
            for digest, alias in aliases.items():
                used = self._adapters.get((tenant, digest), AdapterUsage(tenant, digest, alias))
                self._adapters[tenant, digest] = replace(
                    used,
                    requests=used.requests + (digest not in counted),
                    prompt_tokens=used.prompt_tokens + prompt[digest],
                    completion_tokens=used.completion_tokens + completion[digest],
                )
                counted.add(digest)

    def fold(self, known: Collection[AdapterDigest]) -> None:
        """Add up what is booked on versions that are not ``known`` any more.

        Names come and go for as long as a cluster lives, so the figures of each must not.
        """
        for tenant, digest in [*self._adapters]:
            if digest in (BASE, REMOVED) or digest in known:
                continue
            gone = self._adapters.pop((tenant, digest))
            total = self._adapters.get(
                (tenant, REMOVED), AdapterUsage(tenant, REMOVED, "(removed)")
            )
            self._adapters[tenant, REMOVED] = replace(
                total,
                requests=total.requests + gone.requests,
                prompt_tokens=total.prompt_tokens + gone.prompt_tokens,
                completion_tokens=total.completion_tokens + gone.completion_tokens,
            )

    def snapshot(self) -> MeterSnapshot:
        """Return all counters, for metrics and reports."""
        return MeterSnapshot(
            tenants=tuple(self._tenants[key] for key in sorted(self._tenants)),
            adapters=tuple(self._adapters[key] for key in sorted(self._adapters)),
            outcomes=tuple((*key, self._outcomes[key]) for key in sorted(self._outcomes)),
        )

    def check_integrity(self) -> None:
        """Verify that shares add up to totals.

        Raises:
            IntegrityError: with both numbers.
        """
        for tenant, total in self._tenants.items():
            shares = [a for a in self._adapters.values() if a.tenant == tenant]
            for name in ("prompt_tokens", "completion_tokens"):
                found = sum(getattr(a, name) for a in shares)
                if found != getattr(total, name):
                    raise IntegrityError(
                        f"meter of {tenant}: {name} of adapters {found}, "
                        f"of the tenant {getattr(total, name)}"
                    )


def share(tokens: int, weights: dict[AdapterDigest, Fraction]) -> dict[AdapterDigest, int]:
    """Share whole tokens in proportion to ``weights`` (>= 0, not all zero), by largest remainder.

    Equal remainders go in the order of digests, so the result does not depend on the mixture's.
    """
    total = sum(weights.values())
    exact = {digest: tokens * weight / total for digest, weight in weights.items()}
    shares = {digest: int(value) for digest, value in exact.items()}
    left = tokens - sum(shares.values())
    order = sorted(exact, key=lambda digest: (shares[digest] - exact[digest], digest))
    for digest in order[:left]:
        shares[digest] += 1
    return shares
