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
from cluster.placement.demand.demand import AdapterSet, DemandKey
from cluster.placement.picking.prefix_affinity import LENGTHS
from cluster.simulation.replica.engine_port import A_TOKEN, EngineWork
from cluster.simulation.trace import TraceRequest

_LARGEST = 2**62  # tokens are hashed as 64-bit integers


def expected_end(asked: TraceRequest) -> int:
    """Return the tokens after which an answer ends: at least one where any may be generated."""
    return min(max(1, asked.generated_tokens), asked.max_tokens)


class WorkMaker:
    """Makes the engines' work of a trace's requests; all weights of a set are equal.

    Prompts whose chains of block hashes agree have equal tokens in those blocks; all other tokens
    are a request's own.

    Args:
        block_size: tokens of a KV block.
        with_tokens: whether engines look at tokens; else only their number is right.
    """

    def __init__(self, block_size: int, *, with_tokens: bool) -> None:
        self._block_size = block_size
        self._with_tokens = with_tokens
        self._decided: dict[DemandKey, tuple[RoutingDecision, str]] = {}
        self._sampling: dict[int, SamplingParams] = {}  # by limit

    def make(
        self,
        asked: TraceRequest,
        index: int,
        key: DemandKey,
        request_id: RequestId,
        *,
        weight: float,
        itl_s: float,
        resumed: int,
        deadline_at: float,
    ) -> EngineWork:
        """Make the work of one request.

        Args:
            index: of the request in the trace; names its own tokens.
            weight: of its tenant.
            itl_s: seconds between tokens that its tenant is promised.
            resumed: tokens of its completion that were generated elsewhere.
            deadline_at: monotonic seconds of the replica.
        """
        decision, namespace = self._decide(key)
        if self._with_tokens:
            prompt = _tokens(asked, index, self._block_size)
        else:
            prompt = (A_TOKEN,) * asked.prompt_tokens
        sampling = self._sampling.get(asked.max_tokens)
        if sampling is None:
            sampling = self._sampling[asked.max_tokens] = SamplingParams(asked.max_tokens)
        request = GenerationRequest(
            request_id=request_id,
            tenant=asked.tenant,
            prompt_token_ids=prompt,
            sampling=sampling,
            decision=decision,
            resumed_token_ids=(A_TOKEN,) * resumed,
            deadline_at=deadline_at,
            weight=weight,
            itl_s=itl_s,
        )
        return EngineWork(request, namespace, (), asked.prefix, expected_end(asked))

    def prefix_keys(self, asked: TraceRequest, key: DemandKey) -> tuple[int, ...]:
        """Return a key for each of the picker's lengths that the known part of a prompt reaches."""
        if not asked.prefix:
            return ()
        blocks, size = asked.prefix, self._block_size
        space = int(self._decide(key)[1][:15], 16)
        known = min(asked.prompt_tokens, len(blocks) * size)
        return tuple(
            hash((space, length, blocks[length // size - 1]))
            for length in LENGTHS
            if size <= length <= known
        )

    def _decide(self, key: DemandKey) -> tuple[RoutingDecision, str]:
        known = self._decided.get(key)
        if known is None:
            known = self._decided[key] = _decide(key.tenant, key.adapters)
        return known


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
