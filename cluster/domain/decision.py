"""The answer of routing."""

import hashlib
import struct
from dataclasses import dataclass
from enum import StrEnum

from cluster.domain.adapter import WeightedAdapter
from cluster.domain.ids import AdapterDigest, DecisionId, TenantId


class DecisionSource(StrEnum):
    """The origin of a request's decision; the value of ``x-braid-decision-source``."""

    EXPLICIT = "explicit"  # the caller named the base, one adapter or a mixture
    STORED = "stored"  # found in the decision store
    COMPUTED = "computed"  # the router ran for this request
    FALLBACK = "fallback"  # the router could not answer; the base alone


class Granularity(StrEnum):
    """The part of a request that one row of the weight matrix D covers."""

    REQUEST = "request"
    SENTENCE = "sentence"
    PROMPT = "prompt"
    TOKEN = "token"


@dataclass(frozen=True, slots=True)
class SiteWeights:
    """D at per-layer or per-site resolution, for routers that decide more finely than one row.

    ``weights[a][s]`` multiplies adapter ``a`` of the mixture at site ``s``; 0 skips the site.
    """

    sites: tuple[str, ...]  # module paths, e.g. "model.layers.3.mlp.up_proj"
    weights: tuple[tuple[float, ...], ...]  # [adapters][sites]


@dataclass(frozen=True, slots=True)
class CandidateScore:
    """One candidate's probability, kept to explain a decision."""

    alias: str  # "" is the base model without an adapter
    probability: float
    kept: bool


@dataclass(frozen=True, slots=True)
class RoutingDecision:
    """The adapters that answer a prompt, their weights, and who decided so.

    The mixture is sorted by digest: sums must not depend on the order of arrival.
    """

    id: DecisionId
    tenant: TenantId
    router: str  # "explicit", "dlp", ...
    router_version: str  # digest of the router's artifact; "1" if it has none
    granularity: Granularity
    mixture: tuple[WeightedAdapter, ...]  # empty: the base alone
    source: DecisionSource
    candidates_digest: str  # of the adapters the router could choose from
    prompt_digest: str
    created_at: float  # wall clock, seconds
    expires_at: float  # wall clock, seconds
    site_weights: SiteWeights | None = None
    scores: tuple[CandidateScore, ...] = ()
    delay: int | None = None
    """Of a later sentence: tokens from when its beginning was seen until its adapters were applied,
    where that is known. A repeat waits as long, so that it comes out the same."""

    @staticmethod
    def of_base(id: DecisionId, tenant: TenantId) -> "RoutingDecision":
        """Return a decision for the base alone, made by the caller, that no store has seen."""
        return RoutingDecision(
            id=id,
            tenant=tenant,
            router="explicit",
            router_version="1",
            granularity=Granularity.REQUEST,
            mixture=(),
            source=DecisionSource.EXPLICIT,
            candidates_digest="",
            prompt_digest="",
            created_at=0.0,
            expires_at=float("inf"),
        )

    @property
    def is_complete(self) -> bool:
        """Report whether prefill has nothing left to decide."""
        return self.granularity is not Granularity.PROMPT or self.site_weights is not None

    @property
    def is_fused(self) -> bool:
        """Report whether its weights are decided inside the engine."""
        inside = self.granularity in (Granularity.TOKEN, Granularity.PROMPT)
        return inside and bool(self.mixture)

    @property
    def digests(self) -> tuple[AdapterDigest, ...]:
        """Return the versions of the mixture, in its order."""
        return tuple([term.key.digest for term in self.mixture])


def tagged_digest(*parts: tuple[str, bytes]) -> str:
    """Return the sha256 (hex) over tagged, length-prefixed parts, so that lists cannot collide.

    Each part is ``(tag, value)``. See docs/decisions/0001.
    """
    hasher = hashlib.sha256()
    for tag, value in parts:
        encoded = tag.encode()
        hasher.update(struct.pack("<II", len(encoded), len(value)))
        hasher.update(encoded)
        hasher.update(value)
    return hasher.hexdigest()


def kv_namespace(base_digest: str, decision: RoutingDecision, *, isolate_tenant: bool) -> str:
    """Return the name of the family of KV blocks that a request may share (docs/decisions/0001).

    KV content depends on the adapters applied, so every block's key carries: base digest, router
    and version, adapter digests in order, D exactly as applied, and the tenant where tenants are
    isolated. A static mixture is the same mathematics whichever router chose it, for a request or
    for one of its sentences, so router and version enter only for decisions finer than that.
    """
    parts = [("base", base_digest.encode())]
    for term in decision.mixture:
        parts.append(("adapter", term.key.digest.encode()))
        parts.append(("weight", struct.pack("<d", term.weight)))
    if decision.granularity not in (Granularity.REQUEST, Granularity.SENTENCE):
        parts.append(("router", decision.router.encode()))
        parts.append(("router-version", decision.router_version.encode()))
    if decision.granularity is Granularity.PROMPT:
        parts.append(("prompt", decision.prompt_digest.encode()))
    if decision.site_weights is not None:
        for site, column in zip(
            decision.site_weights.sites,
            zip(*decision.site_weights.weights, strict=True),
            strict=True,
        ):
            parts.append(("site", site.encode()))
            parts.append(("site-weights", struct.pack(f"<{len(column)}d", *column)))
    if isolate_tenant:
        parts.append(("tenant", decision.tenant.encode()))
    return tagged_digest(*parts)
