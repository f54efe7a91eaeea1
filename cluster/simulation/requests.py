"""Turns lines of a trace into the requests that the real parts take."""

from cluster.domain.adapter import AdapterKey, WeightedAdapter
from cluster.domain.decision import (
    DecisionSource,
    Granularity,
    RoutingDecision,
    kv_namespace,
)
from cluster.domain.ids import AdapterDigest, DecisionId, RequestId, TenantId
from cluster.domain.request import GenerationRequest, SamplingParams
from cluster.placement.demand.demand import AdapterSet
from cluster.simulation.engine_exact import A_TOKEN
from cluster.simulation.trace import TraceRequest

_LARGEST = 2**62  # tokens are hashed as 64-bit integers


class DecidedSets:
    """The decisions of a simulation, one for each tenant and adapter set, all weights equal."""

    def __init__(self) -> None:
        self._known: dict[tuple[TenantId, AdapterSet], tuple[RoutingDecision, str]] = {}

    def of(self, tenant: TenantId, adapters: AdapterSet) -> tuple[RoutingDecision, str]:
        """Return a decision and the KV namespace of its requests."""
        known = self._known.get((tenant, adapters))
        if known is None:
            known = self._known[tenant, adapters] = _decide(tenant, adapters)
        return known


def expected_end(asked: TraceRequest) -> int:
    """Return the tokens after which an answer ends: at least one where any may be generated."""
    return min(max(1, asked.generated_tokens), asked.max_tokens)


def generation_request(
    asked: TraceRequest,
    index: int,
    request_id: RequestId,
    decision: RoutingDecision,
    *,
    block_size: int,
    resumed: int,
    deadline_at: float,
    with_tokens: bool,
) -> GenerationRequest:
    """Build one request.

    Prompts whose chains of block hashes agree have equal tokens in those blocks; all other tokens
    are a request's own, named by its ``index`` in the trace.

    Args:
        resumed: tokens of its completion that were generated elsewhere.
        deadline_at: wall clock, seconds.
        with_tokens: whether tokens matter; else only their number is right.
    """
    whole = _tokens(asked, index, block_size) if with_tokens else None
    prompt = (A_TOKEN,) * asked.prompt_tokens if whole is None else whole
    return GenerationRequest(
        request_id=request_id,
        tenant=asked.tenant,
        prompt_token_ids=prompt,
        sampling=SamplingParams(max_tokens=asked.max_tokens),
        decision=decision,
        resumed_token_ids=(A_TOKEN,) * resumed,
        deadline_at=deadline_at,
    )


def _tokens(asked: TraceRequest, index: int, block_size: int) -> tuple[int, ...]:
    tokens: list[int] = []
    for block in asked.prefix[: asked.prompt_tokens // block_size]:
        tokens += [block % _LARGEST] * block_size
    own = -2 - index  # no block's hash is negative
    return (*tokens, *(own,) * (asked.prompt_tokens - len(tokens)))


def _decide(tenant: TenantId, adapters: AdapterSet) -> tuple[RoutingDecision, str]:
    mixture = tuple(
        WeightedAdapter(AdapterKey(tenant, "", AdapterDigest(digest)), 1.0 / len(adapters))
        for digest in adapters
    )
    decision = RoutingDecision(
        id=DecisionId(""),
        tenant=tenant,
        router="explicit",
        router_version="1",
        granularity=Granularity.REQUEST,
        mixture=mixture,
        source=DecisionSource.EXPLICIT,
        candidates_digest="",
        prompt_digest="",
        created_at=0.0,
        expires_at=float("inf"),
    )
    return decision, kv_namespace("", decision, isolate_tenant=True)
