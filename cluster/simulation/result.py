"""The outcome of a simulation: data only."""

import itertools
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.simulation.trace import TraceRequest

TierFound = Literal["base", "device", "loading", "host", "disk", ""]
"""Says where the worst of a request's adapters was when it reached its replica; "": never."""

IN_FLIGHT = "in_flight"
"""Outcome of a request that had not ended when the simulation did."""
FRONT_LOST = "front_lost"
"""Outcome of a request whose front died."""


class ServedRequest(NamedTuple):
    """Reports the course of one request of the trace, in virtual seconds since the trace began."""

    asked: TraceRequest
    outcome: str  # ``ok``, an error's code, or ``in_flight``
    replica: ReplicaId | None = None  # that served it last; None: none took it
    tier_found: TierFound = ""
    queued_at: float | None = None  # when that replica took it
    queued: float | None = None  # seconds from then until its first step; None: it had none
    ttft: float | None = None  # from arrival; None without a token
    e2e: float | None = None  # from arrival; None while in flight
    itl: float | None = None  # mean between tokens; None with fewer than two
    tokens: int = 0  # generated
    cached_tokens: int = 0  # of the prompt, found in the prefix cache
    failovers: int = 0  # replicas lost while it was served
    cold: bool = False  # it was sent to a replica that the front knew not to hold its whole set


@dataclass(frozen=True, slots=True)
class ClusterSample:
    """The cluster at one look of the controller."""

    at: float
    target: int  # replicas asked of Serve
    ready: int  # replicas that run and do not leave
    starting: int
    in_flight: int  # requests that have arrived and not ended
    held: int  # of these, waiting at a front for a replica
    reason: str = ""  # of the target


@dataclass(frozen=True, slots=True)
class MoveSample:
    """One change of a replica's adapters that the controller ordered."""

    at: float
    replica: ReplicaId
    digest: AdapterDigest
    kind: str  # of ``cluster.placement.planning.plan.MoveKind``
    nbytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class PlacementSample:
    """A replica's desired adapters, from ``at`` until its next sample."""

    at: float
    replica: ReplicaId
    desired: tuple[AdapterDigest, ...]


@dataclass(frozen=True, slots=True)
class TierCounts:
    """Sums over all replicas, those that are gone included."""

    loads_from_host: int = 0  # to the device
    loads_from_disk: int = 0  # to the device, through host memory
    bytes_from_host: int = 0
    bytes_from_disk: int = 0
    evictions: int = 0  # from device slots
    evictions_host: int = 0
    steps: int = 0  # of the engines
    step_seconds: float = 0.0
    generated_tokens: int = 0

    def __add__(self, other: "TierCounts") -> "TierCounts":
        return TierCounts(
            *(getattr(self, name) + getattr(other, name) for name in TierCounts.__slots__)
        )


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """All that a report is made from."""

    requests: tuple[ServedRequest, ...]  # in the trace's order
    samples: tuple[ClusterSample, ...]
    moves: tuple[MoveSample, ...]
    placements: tuple[PlacementSample, ...]
    tiers: TierCounts
    replica_seconds: float  # from asking for each replica to its end
    duration_s: float  # virtual, until the last event
    deaths_seen: dict[ReplicaId, float] = field(default_factory=dict)  # by the controller

    @property
    def bytes_moved(self) -> int:
        """Return the bytes that the controller ordered to be fetched."""
        return sum(move.nbytes for move in self.moves if move.kind == "prefetch")

    @property
    def count_changes(self) -> int:
        """Return how often the replica count asked for changed."""
        targets = [sample.target for sample in self.samples]
        return sum(before != after for before, after in itertools.pairwise(targets))

    @property
    def whole_resident_share(self) -> float:
        """Return the share of requests with adapters that found all of them on the device."""
        found = [served.tier_found for served in self.requests if served.tier_found]
        with_adapters = [tier for tier in found if tier != "base"]
        if not with_adapters:
            return 1.0
        return with_adapters.count("device") / len(with_adapters)
