"""The operator's policy: how many replicas, which adapters where, how a replica is picked.

Every field has a default, so a cluster without a policy file is completely described. Reading the
file, and turning mistakes into messages with a path, is ``policy_load``; what must agree between
entries is ``policy_check``.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import Section
from cluster.placement import policy_check
from cluster.placement.policy_units import Count, Number, Seconds, Share
from cluster.placement.week import days_of, minute_of, zone_of

Mode = Literal["on", "observe", "off"]
"""``observe`` decides and gives its reasons, and changes nothing."""


class TierPolicy(Section):
    """Promises to a group of tenants."""

    ttft: Annotated[Seconds, Field(gt=0)] = 2.0
    """Time to the first token, at most."""
    itl: Annotated[Seconds, Field(gt=0)] = 0.15
    """Time between tokens, at most."""


class UpPolicy(Section):
    """Adding replicas."""

    stable: Annotated[Seconds, Field(ge=0)] = 10.0
    """Time for which more replicas must be wanted without a break."""
    step: Annotated[Count, Field(ge=1)] = 4
    """Replicas added at once, at most."""


class DownPolicy(Section):
    """Taking replicas away."""

    stable: Annotated[Seconds, Field(ge=0)] = 300.0
    """Time for which fewer replicas must have been enough at every look."""
    step: Annotated[Count, Field(ge=1)] = 1
    """Replicas taken away at once, at most."""
    drain: Annotated[Seconds, Field(ge=0)] = 60.0
    """Time that a replica has to hand over what only it holds."""


class ScheduleEntry(Section):
    """Other bounds of the replica count at certain times of the week."""

    days: str = "mon-sun"
    """``mon-fri``, ``sat``, or a list with commas: the days on which it begins."""
    from_: Annotated[str, Field(alias="from")] = "00:00"
    to: str = "24:00"
    """Where it is before ``from`` the entry ends on the next day."""
    zone: str = "UTC"
    min: Annotated[Count, Field(ge=0)] | None = None
    max: Annotated[Count, Field(ge=1)] | None = None

    @field_validator("days")
    @classmethod
    def _days(cls, value: str) -> str:
        days_of(value)
        return value

    @field_validator("from_", "to", mode="before")
    @classmethod
    def _times(cls, value: object) -> object:
        minute_of(value)
        return value

    @field_validator("zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        zone_of(value)
        return value

    @model_validator(mode="after")
    def _agree(self) -> "ScheduleEntry":
        return policy_check.agreeing(self, policy_check.of_schedule(self))


class ReplicasPolicy(Section):
    """Bounds of the number of replicas, and what asks for more and fewer."""

    mode: Mode = "on"
    """``off``: the count is ``min``."""
    min: Annotated[Count, Field(ge=0)] = 1
    max: Annotated[Count, Field(ge=1)] = 2
    target: Annotated[Share, Field(gt=0, le=1)] = 0.7
    """Share of a replica's time that work may take."""
    cold_share: Annotated[Share, Field(ge=0, le=1)] = 0.02
    """Share of requests that may find an adapter missing before a replica is added for memory."""
    up: UpPolicy = UpPolicy()
    down: DownPolicy = DownPolicy()
    zero_after: Annotated[Seconds, Field(gt=0)] | None = None
    """Time without a request after which no replica is kept; needs ``min`` 0."""
    hold: Annotated[Seconds, Field(ge=0)] = 30.0
    """Time that a request waits for the first replica."""
    schedule: tuple[ScheduleEntry, ...] = ()
    """Where several entries hold, a later one wins."""

    @model_validator(mode="after")
    def _agree(self) -> "ReplicasPolicy":
        return policy_check.agreeing(self, policy_check.of_replicas(self))


class PlacementPolicy(Section):
    """Parameters of placing adapters on replicas."""

    mode: Mode = "on"
    """``off``: nothing is placed; demand alone brings adapters in."""
    tolerance: Annotated[Share, Field(ge=0, lt=1)] = 0.15
    """Difference in copies between demand and the present number before that changes."""
    max_moves_per_tick: Annotated[Count, Field(ge=1)] = 4
    """Prefetches that one tick may order, in the whole cluster."""
    min_copies: Annotated[Count, Field(ge=1)] = 1
    """Copies of any adapter that has load."""
    max_copies: Annotated[Count, Field(ge=1)] | None = None
    """Most copies of an adapter; unset is one on every replica. Pins may go above it."""
    spare_share: Annotated[Share, Field(ge=0, lt=1)] = 0.25
    """Share of each replica's slots, rounded up, where only pins are placed: they take what is
    loaded on demand. A replica's only slot is never spared."""
    cooldown_s: Annotated[Seconds, Field(ge=0)] = 30.0
    """After a change an adapter gains copies freely but loses none for this long."""
    retry_s: Annotated[Seconds, Field(gt=0)] = 5.0
    """First wait after a failed prefetch; doubles with each failure."""
    max_retry_s: Annotated[Seconds, Field(gt=0)] = 300.0

    @model_validator(mode="after")
    def _agree(self) -> "PlacementPolicy":
        return policy_check.agreeing(self, policy_check.of_placement(self))


class Pin(Section):
    """At least so many copies of one adapter, whatever its load."""

    adapter: Annotated[str, Field(min_length=1)]
    """Alias."""
    owner: str | None = None
    """Tenant that owns it; needed only where several tenants use the alias."""
    copies: int | Literal["all"] = 1

    @field_validator("copies", mode="before")
    @classmethod
    def _copies(cls, value: object) -> object:
        if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
            return value
        raise ValueError(f'must be a whole number of at least 1, or "all", not {value!r}')


class PickingPolicy(Section):
    """Parameters of picking a replica for a request."""

    bound: Annotated[Number, Field(ge=1)] = 1.25
    """A replica with a full batch and more than this many times the mean load is passed over."""
    harm: Annotated[Number, Field(ge=0)] = 0.25
    """Weight of the seconds that a request costs others."""
    prefix: bool = True
    """Prefer the replica that has the prompt's beginning in its prefix cache."""
    explain: Annotated[Share, Field(ge=0, le=1)] = 0.01
    """Share of requests whose pick is explained in the request log."""
    max_queued: Annotated[Count, Field(ge=1)] = 1024
    """A replica with this many requests waiting gets no more."""


class ClusterPolicy(Section):
    """The whole file."""

    tiers: dict[str, TierPolicy] = Field(default_factory=lambda: {"standard": TierPolicy()})
    tenants: dict[str, str] = Field(default_factory=lambda: {"*": "standard"})
    """Tier by pattern of tenants; the first that matches holds."""
    replicas: ReplicasPolicy = ReplicasPolicy()
    placement: PlacementPolicy = PlacementPolicy()
    pins: tuple[Pin, ...] = ()
    picking: PickingPolicy = PickingPolicy()

    @model_validator(mode="after")
    def _agree(self) -> "ClusterPolicy":
        return policy_check.agreeing(self, policy_check.of_policy(self))

    @classmethod
    def fixed(cls, replicas: int) -> "ClusterPolicy":
        """Return the defaults with a replica count that never changes."""
        return cls(replicas=ReplicasPolicy(min=replicas, max=replicas))
