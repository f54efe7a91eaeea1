"""The operator's policy: how many replicas, which adapters where, how a replica is picked.

Every field has a default, so a cluster without a policy file is completely described. Reading the
file, and turning mistakes into messages with a path, is ``policy_load``.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from cluster.config import Section
from cluster.placement.policy_check import MANY_REPLICAS, agreeing, nearest
from cluster.placement.policy_units import Count, Number, Seconds, Share, read_switch
from cluster.placement.week import days_of, minute_of, zone_of

Mode = Annotated[Literal["on", "observe", "off"], BeforeValidator(read_switch)]
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
    """Ends the entry on the next day if it is before ``from``."""
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
        return agreeing(self, self._problems())

    def _problems(self) -> Iterable[str]:
        if minute_of(self.from_) == minute_of(self.to) or self.from_ == "24:00":
            yield f"to: {self.from_} to {self.to} is empty; name a later time"
        if self.min is None and self.max is None:
            yield "min: the entry changes nothing; give min or max"
        if self.min is not None and self.max is not None and self.min > self.max:
            yield f"min: {self.min} is above max {self.max}; lower min or raise max"


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
    """Of several entries that hold, the last one wins."""

    @model_validator(mode="after")
    def _agree(self) -> "ReplicasPolicy":
        return agreeing(self, self._problems())

    def _problems(self) -> Iterable[str]:
        low, high = self.min, self.max
        if high > MANY_REPLICAS:
            yield f"max: {high} is above {MANY_REPLICAS}, the most that is supported; lower it"
        if low > high:
            yield f"min: {low} is above max {high}; lower min or raise max"
        zeros = [f"schedule[{at}].min" for at, entry in enumerate(self.schedule) if entry.min == 0]
        if low == 0:
            zeros.insert(0, "min")
        if self.zero_after is None:
            for path in zeros:
                yield f"{path}: 0 needs zero_after; set it to a time such as 15m, or {path} to 1"
        elif not zeros:
            yield (
                f"zero_after: it needs min 0, and min is {low}; set min to 0 or leave "
                "zero_after out"
            )
        if self.mode == "off" and low == 0:
            yield "mode: off keeps min replicas, and min is 0; set min to at least 1"
        for at, entry in enumerate(self.schedule):
            if entry.min is not None and entry.max is None and entry.min > high:
                yield (
                    f"schedule[{at}].min: {entry.min} is above replicas.max {high}; "
                    "lower it, or give the entry a max"
                )
            if entry.max is not None and entry.min is None and entry.max < low:
                yield (
                    f"schedule[{at}].max: {entry.max} is below replicas.min {low}; "
                    "raise it, or give the entry a min"
                )


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
        return agreeing(self, self._problems())

    def _problems(self) -> Iterable[str]:
        least, most = self.min_copies, self.max_copies
        if most is not None and least > most:
            yield f"min_copies: {least} is above max_copies {most}; lower it or raise max_copies"
        if self.retry_s > self.max_retry_s:
            yield (
                f"retry_s: {self.retry_s:g} is above max_retry_s {self.max_retry_s:g}; "
                "lower it or raise max_retry_s"
            )


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
    """A replica with this many requests waiting gets no more. As many may wait at a front while no
    replica takes them; beyond that only tenants are let in that have less than an equal share."""


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
        return agreeing(self, self._problems())

    def _problems(self) -> Iterable[str]:
        for pattern, tier in self.tenants.items():
            if tier not in self.tiers:
                yield f"tenants.{pattern}: there is no tier {tier!r}; {nearest(tier, self.tiers)}"
        most = max(
            [self.replicas.max, *(entry.max or 0 for entry in self.replicas.schedule)],
        )
        seen: dict[tuple[str | None, str], int] = {}
        for at, pin in enumerate(self.pins):
            first = seen.setdefault((pin.owner, pin.adapter), at)
            if first != at:
                yield (
                    f'pins[{at}].adapter: "{pin.adapter}" is pinned already by pins[{first}]; '
                    "remove one of the two"
                )
            if pin.copies != "all" and pin.copies > most:
                yield (
                    f"pins[{at}].copies: {pin.copies} copies need as many replicas, but "
                    f"replicas.max is {most}; lower copies or raise replicas.max"
                )

    @classmethod
    def fixed(cls, replicas: int) -> "ClusterPolicy":
        """Return the defaults with a replica count that never changes."""
        return cls(replicas=ReplicasPolicy(min=replicas, max=replicas))
