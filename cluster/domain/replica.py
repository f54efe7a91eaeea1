"""Facts about a replica, and nothing else, so that policies can be pure functions."""

from dataclasses import dataclass, field

from cluster.domain.adapter import ResidentAdapter
from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.domain.plan_version import NO_PLAN, PlanVersion
from cluster.domain.work import WorkTotals

HEARTBEAT_S = 1.0
"""A replica sends its snapshot at least this often."""


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

    @property
    def kv_usage(self) -> float:
        """Return the share of KV blocks in use, 0 to 1."""
        if self.kv_blocks_total == 0:
            return 0.0
        return 1.0 - self.kv_blocks_free / self.kv_blocks_total


@dataclass(frozen=True, slots=True)
class ReplicaChoice:
    """A pick, with its explanation. All costs are seconds."""

    replica_id: ReplicaId
    cost: float
    terms: tuple[tuple[str, float], ...]  # (queue, load, prefill, harm), seconds each
    predicted_ttft: float  # from the pick to the first token
    whole: bool  # all of the request's adapters are on the replica's device
    decided_by: str  # cost, home, guard or random
    considered: int  # replicas that passed the filters
    snapshot_age: float  # since the replica was heard of
    tier_found: str = ""  # where its worst adapter was: device, loading, host, disk, base
