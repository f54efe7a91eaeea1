"""Defines what a choice is made of: what to generate, and what all choices of a front share."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.clock import Clock
from cluster.domain.ids import RequestId, TenantId
from cluster.domain.replica import ReplicaChoice
from cluster.domain.request import (
    SamplingParams,
)
from cluster.tenancy.shares import (
    PromisedItl,
    TenantWeight,
    equal_weight,
    nothing_promised,
)
from cluster.waiting.holding import WaitForReplica, at_once
from deployments.front.replicas.pick_hints import PickHints
from deployments.front.replicas.replica_set import ReplicaSet
from deployments.front.text.text_stream import TextCodec
from router_service.request_decision import RequestDecision


@dataclass(frozen=True, slots=True)
class SequenceSpec:
    """Says what to generate."""

    tenant: TenantId
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    stop: tuple[str, ...]
    decided: RequestDecision
    arrived_at: float  # monotonic seconds
    deadline_at: float  # monotonic seconds
    skip_special_tokens: bool = True  # leave them out of the text
    include_stop: bool = False  # end the text behind what stopped it
    max_wait_s: float = math.inf  # for the first replica
    hints: PickHints = field(default_factory=PickHints)


@dataclass(frozen=True, slots=True)
class ChoiceServices:
    """Holds what all choices of a front share."""

    replicas: ReplicaSet
    codec: TextCodec
    clock: Clock
    new_id: Callable[[], RequestId]
    on_failover: Callable[[], None]
    wait_for_replica: WaitForReplica = at_once
    on_pick: Callable[[TenantId, ReplicaChoice], None] = lambda *_: None
    weight: TenantWeight = equal_weight
    promised_itl: PromisedItl = nothing_promised
