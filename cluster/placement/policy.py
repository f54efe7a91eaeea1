"""The operator's policy: how many replicas, which adapters where, how a replica is picked.

Every field has a default, so a cluster without a policy file is completely described. Reading the
file, and turning mistakes into messages with a path, is ``policy_load``.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import Section

Mode = Literal["on", "observe", "off"]
"""``observe`` decides and gives its reasons, and changes nothing."""


class TierPolicy(Section):
    """Promises to a group of tenants."""

    ttft: Annotated[float, Field(gt=0)] = 2.0
    """Seconds to the first token, at most."""
    itl: Annotated[float, Field(gt=0)] = 0.15
    """Seconds between tokens, at most."""


class UpPolicy(Section):
    """Adding replicas."""

    stable: Annotated[float, Field(ge=0)] = 10.0
    """Seconds for which more replicas must be wanted without a break."""
    step: Annotated[int, Field(ge=1)] = 4
    """Replicas added at once, at most."""


class DownPolicy(Section):
    """Taking replicas away."""

    stable: Annotated[float, Field(ge=0)] = 300.0
    """Seconds for which one replica less must have been enough at every look."""
    step: Annotated[int, Field(ge=1)] = 1
    """Replicas taken away at once, at most."""
    drain: Annotated[float, Field(ge=0)] = 60.0
    """Seconds that a replica has to hand over what only it holds."""


class ScheduleEntry(Section):
    """Other bounds of the replica count at certain times of the week."""

    days: str = "mon-sun"
    """``mon-fri``, ``sat``, or a list with commas."""
    from_: Annotated[str, Field(alias="from")] = "00:00"
    to: str = "24:00"
    zone: str = "UTC"
    min: Annotated[int, Field(ge=0)] | None = None
    max: Annotated[int, Field(ge=1)] | None = None


class ReplicasPolicy(Section):
    """Bounds of the number of replicas."""

    mode: Mode = "on"
    """``off``: the count is ``min``."""
    min: Annotated[int, Field(ge=0)] = 1
    max: Annotated[int, Field(ge=1)] = 2
    target: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Share of a replica's time that work may take."""
    cold_share: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Share of requests that may find an adapter missing before a replica is added for memory."""
    up: UpPolicy = UpPolicy()
    down: DownPolicy = DownPolicy()
    zero_after: Annotated[float, Field(gt=0)] | None = None
    """Seconds without a request after which no replica is kept; needs ``min`` 0."""
    hold: Annotated[float, Field(ge=0)] = 30.0
    """Seconds that a request waits for the first replica."""
    schedule: tuple[ScheduleEntry, ...] = ()
    target_running_per_replica: Annotated[float, Field(gt=0)] = 8.0
    """Requests (running and queued) that one replica should have."""
    upscale_delay_s: Annotated[float, Field(ge=0)] = 10.0
    """Load must ask for more replicas this long without a break before there are more."""
    downscale_delay_s: Annotated[float, Field(ge=0)] = 120.0
    """Load must ask for fewer replicas this long without a break before there are fewer."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Relative distance from the target that changes nothing."""
    window_s: Annotated[float, Field(gt=0)] = 10.0
    """Time constant of the exponential average of the load."""

    @model_validator(mode="after")
    def _bounds(self) -> "ReplicasPolicy":
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self


class PlacementPolicy(Section):
    """Parameters of placing adapters on replicas."""

    mode: Mode = "on"
    """``off``: nothing is placed; demand alone brings adapters in."""
    window_s: Annotated[float, Field(gt=0)] = 30.0
    """Time constant of the exponential average of arrivals."""
    idle_rate: Annotated[float, Field(gt=0)] = 0.001
    """Requests per second below which an adapter counts as unused."""
    evidence: Annotated[float, Field(ge=0)] = 4.0
    """Requests of doubt: copies are added for ``n / (n + evidence)`` of the seen share only, so
    that the first few requests do not look like a trend."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Difference in copies between demand and the present number before that changes."""
    max_moves_per_tick: Annotated[int, Field(ge=1)] = 4
    """Prefetches that one tick may order, in the whole cluster."""
    min_copies: Annotated[int, Field(ge=1)] = 1
    """Copies of any adapter that has load."""
    max_copies: Annotated[int, Field(ge=1)] | None = None
    """Most copies of an adapter; unset is one on every replica. Pins may go above it."""
    spare_share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of each replica's slots, rounded up, where only pins are placed: they take what is
    loaded on demand. A replica's only slot is never spared."""
    cooldown_s: Annotated[float, Field(ge=0)] = 30.0
    """After a change an adapter gains copies freely but loses none for this long."""
    retry_s: Annotated[float, Field(gt=0)] = 5.0
    """First wait after a failed prefetch; doubles with each failure."""
    max_retry_s: Annotated[float, Field(gt=0)] = 300.0
    lost_after_s: Annotated[float, Field(gt=0)] = 15.0
    """A replica that has not been heard of for this long is gone."""

    @model_validator(mode="after")
    def _bounds(self) -> "PlacementPolicy":
        if self.max_copies is not None and self.min_copies > self.max_copies:
            raise ValueError(
                f"min_copies ({self.min_copies}) is above max_copies ({self.max_copies})"
            )
        if self.retry_s > self.max_retry_s:
            raise ValueError(f"retry_s ({self.retry_s}) is above max_retry_s ({self.max_retry_s})")
        return self


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

    bound: Annotated[float, Field(ge=1)] = 1.25
    """A replica with a full batch and more than this many times the mean load is passed over."""
    harm: Annotated[float, Field(ge=0)] = 0.25
    """Weight of the seconds that a request costs others."""
    prefix: bool = True
    """Prefer the replica that has the prompt's beginning in its prefix cache."""
    explain: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of requests whose pick is explained in the request log."""
    max_queued: Annotated[int, Field(ge=1)] = 1024
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
    def _pins(self) -> "ClusterPolicy":
        seen: dict[tuple[str | None, str], int] = {}
        for index, pin in enumerate(self.pins):
            first = seen.setdefault((pin.owner, pin.adapter), index)
            if first != index:
                raise ValueError(
                    f'pins[{index}].adapter: "{pin.adapter}" is pinned already by pins[{first}]'
                )
            if pin.copies != "all" and pin.copies > self.replicas.max:
                raise ValueError(
                    f"pins[{index}].copies: {pin.copies} copies need as many replicas, "
                    f"but replicas.max is {self.replicas.max}"
                )
        return self

    @classmethod
    def fixed(cls, replicas: int) -> "ClusterPolicy":
        """Return the defaults with a replica count that never changes."""
        return cls(replicas=ReplicasPolicy(min=replicas, max=replicas))
