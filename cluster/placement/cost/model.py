"""The cost model: how long a step, a load and a start take, in seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.domain.ids import ReplicaId
from cluster.domain.work import StepTotals


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of a step, linear in what it computes. All coefficients are at least 0."""

    per_step: float = 0.022
    per_prefill_token: float = 0.0008
    per_decode_row: float = 0.001
    per_context_block: float = 0.0
    per_adapter_byte: float = 0.13e-9
    per_rank_row: float = 0.0

    def seconds(self, work: StepTotals) -> float:
        """Return the time that the steps of ``work`` take."""
        return (
            self.per_step * work.steps
            + self.per_prefill_token * work.prefill_tokens
            + self.per_decode_row * work.decode_rows
            + self.per_context_block * work.context_blocks
            + self.per_adapter_byte * work.adapter_bytes
            + self.per_rank_row * work.rank_rows
        )


@dataclass(frozen=True, slots=True)
class LoadCost:
    """Seconds of bringing one adapter to the device from one tier."""

    latency: float
    per_byte: float

    def seconds(self, nbytes: float) -> float:
        """Return the time that one load of so many bytes takes, once it has begun."""
        return self.latency + self.per_byte * nbytes


@dataclass(frozen=True, slots=True)
class CostModel:
    """The costs in force. The defaults are those of a small model on two CPU cores."""

    step: StepCost = StepCost()
    host_load: LoadCost = LoadCost(0.02, 1e-8)
    disk_load: LoadCost = LoadCost(0.1, 2.5e-8)
    start_s: float = 30.0  # to a replica's first snapshot, without waiting for room; see ``Starts``
    measured: bool = True  # no: defaults, of another machine than the replicas run on
    slowness: Mapping[ReplicaId, float] = field(default_factory=dict)
    """Measured over predicted time of each replica's steps, within [1/4, 4]; 1 where absent."""

    def slowness_of(self, replica_id: ReplicaId) -> float:
        """Return how much longer than predicted a replica's steps take; 1 where unknown."""
        return self.slowness.get(replica_id, 1.0)
