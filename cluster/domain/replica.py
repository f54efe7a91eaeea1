"""Facts about a replica, and nothing else, so that policies can be pure functions."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from cluster.domain.adapter import ResidentAdapter
from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.domain.plan_version import NO_PLAN, PlanVersion
from cluster.domain.work import WorkTotals

HEARTBEAT_S = 1.0
"""A replica sends its snapshot at least this often."""

LINK_SILENCE_S = 6.0
"""A front gives up the link to a replica that has sent nothing for so long.

Its requests continue on others. Steps and loads run in threads of their own, so a replica that
works continues to send. This is twice the time after which picks avoid it: a false alarm has its
prompts computed again, so it must be rare.
"""

OTHERS = TenantId("")
"""Stands in a backlog for all tenants beyond those with the most tokens."""


@dataclass(frozen=True, slots=True)
class ReplicaSnapshot:
    """A replica's account of itself; of two, the one of the higher ``sequence`` is the newer."""

    replica_id: ReplicaId
    address: str  # host:port of its link server
    queued: int  # requests not yet admitted to the engine's batch
    running: int  # sequences in the batch
    kv_blocks_total: int
    kv_blocks_free: int
    slots_total: int  # adapter slots in the device bank
    adapter_bytes_limit: int
    adapter_bytes_used: int
    resident: tuple[ResidentAdapter, ...]
    draining: bool
    desired: tuple[AdapterDigest, ...] = ()  # the placement it last acknowledged
    desired_version: PlanVersion = NO_PLAN
    counters: tuple[tuple[str, float], ...] = field(default=())  # engine counters for metrics
    max_model_len: int = 0  # longest prompt plus completion that it takes, in tokens
    host_bytes_limit: int = 0  # host memory for adapters
    host_bytes_used: int = 0
    sequence: int = 0  # counts this replica's snapshots
    max_batch_size: int = 1  # sequences that run at once, at most
    backlog: tuple[tuple[TenantId, int], ...] = ()  # prompt tokens not yet computed, by tenant
    loading_bytes: int = 0  # of adapters on their way to the device or waiting for it
    eviction_age_s: float = 0.0  # from last use to eviction, in its pool; 0: nothing was evicted
    prefix_age_s: float = 0.0  # as long the prefix cache keeps a block; 0: nothing was evicted
    work: WorkTotals = field(default_factory=WorkTotals)
    block_size: int = 16  # tokens of a KV block
    device: str = ""  # what its engine computes on, for people and for profiles of its costs
    gates: bool = True  # its engine weighs adapters inside the model, as some routers decide it


DecidedBy = Literal["cost", "home", "guard", "random"]
"""Names the rule that settled a pick.

``cost``: it costs least. ``home``: it is the first of the set's rendezvous order among those that
cost about as much, or a set that has to be loaded is kept to it. ``guard``: a soft filter refused
one that costs less. ``random``: soft filters refused all, and this is the better of two.
"""


@dataclass(frozen=True, slots=True)
class PickCandidate:
    """One replica as a pick saw it."""

    replica_id: ReplicaId
    refused_by: str | None  # name of the filter, or None
    cost: float | None  # seconds, or None if a hard filter refused it
    terms: tuple[tuple[str, float], ...]  # (queue, load, prefill, harm), seconds each
    load: int  # requests queued, running and on the way
    age: float  # seconds since it was heard of


@dataclass(frozen=True, slots=True)
class PickExplanation:
    """Explains why a replica was picked, or why none was."""

    digests: tuple[AdapterDigest, ...]
    chosen: ReplicaId | None
    decided_by: DecidedBy
    candidates: tuple[PickCandidate, ...]  # the chosen one, others by cost, the refused last
    replicas: int  # known in all

    @property
    def refusals(self) -> dict[str, int]:
        """Return the number of candidates refused, by filter."""
        return Counter(c.refused_by for c in self.candidates if c.refused_by is not None)


class ReplicaChoice(NamedTuple):
    """A pick. All costs are seconds."""

    replica_id: ReplicaId
    cost: float
    terms: tuple[tuple[str, float], ...]  # (queue, load, prefill, harm), seconds each
    predicted_ttft: float  # from the pick to the first token
    whole: bool  # all of the request's adapters are on the replica's device
    decided_by: DecidedBy
    considered: int  # replicas that passed the filters
    snapshot_age: float  # since the replica was heard of
    tier_found: str = ""  # where its worst adapter was: device, loading, host, disk, base
    explanation: PickExplanation | None = None  # if the request asked for it
