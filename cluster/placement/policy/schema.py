"""Every field of the operator's policy, with its default and its bounds.

A cluster without a policy is completely described. Rules between fields are in ``contradictions``;
reading a document, and turning mistakes into messages with a path, is ``policy_load``.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    field_validator,
    model_serializer,
    model_validator,
)

from cluster.config import Section
from cluster.placement.policy.units import (
    DAY_S,
    Number,
    Promised,
    Replicas,
    Seconds,
    Share,
    SomeReplicas,
    Wait,
    read_count,
    shown,
)
from cluster.placement.policy.week import days_of, minute_of, zone_of
from cluster.tenancy.shares import MAX_WEIGHT, MIN_WEIGHT

Mode = Literal["on", "observe", "off"]
"""``observe`` decides and gives its reasons, and changes nothing."""

MOST_ENTRIES = 256
"""Of a schedule: each look goes through all of them."""

_TIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_TENANTS = re.compile(r"[a-z0-9*?\[][a-z0-9*?\[\]!-]{0,62}")
_ADAPTERS = re.compile(r"[A-Za-z0-9*?\[][A-Za-z0-9._*?\[\]!-]{0,63}")
_OPEN = re.compile(r"\[[^\]]*$|\[!?\]")
"""A bracket without an end, or without anything in it: it would stand for itself."""


def _tier(name: str) -> str:
    if not _TIER.fullmatch(name):
        raise ValueError(
            f"{shown(name)} is not a tier's name; use letters, digits, '.', '_' and '-'"
        )
    return name


def _tenants(pattern: str) -> str:
    if not _TENANTS.fullmatch(pattern) or _OPEN.search(pattern):
        raise ValueError(
            f"{shown(pattern)} matches no tenant; use lower-case letters, digits and '-', "
            "and '*' for any"
        )
    return pattern


def _adapters(pattern: str) -> str:
    if not _ADAPTERS.fullmatch(pattern) or _OPEN.search(pattern):
        raise ValueError(
            f'{shown(pattern)} matches no adapter; give a name such as "sql", or a pattern '
            'such as "legal-*", and the tenant as owner'
        )
    return pattern


def _owner(tenant: str) -> str:
    if not _TENANT.fullmatch(tenant):
        raise ValueError(f"{shown(tenant)} is not a tenant; use lower-case letters, digits and '-'")
    return tenant


def _copies(value: object) -> int | str:
    if value == "all":
        return "all"
    try:
        copies = read_count(value)
    except ValueError:
        copies = 0
    if copies < 1:
        raise ValueError(
            'must be a whole number of at least 1, or "all", or bounds such as {min: 1, max: 2}, '
            f"not {shown(value)}"
        )
    return copies


TierName = Annotated[str, AfterValidator(_tier)]
TenantPattern = Annotated[str, AfterValidator(_tenants)]
Copies = Annotated[int | Literal["all"], BeforeValidator(_copies)]


class TierPolicy(Section):
    """Promises to a group of tenants."""

    ttft: Promised = 2.0
    """Time to the first token, at most."""
    itl: Promised = 0.15
    """Time between tokens, at most."""
    weight: Annotated[Number, Field(ge=MIN_WEIGHT, le=MAX_WEIGHT)] | None = None
    """Part of each of its tenants when there is not enough for all; None: as the tenants file says.
    """
    min_copies: SomeReplicas | None = None
    """Copies of each set that its tenants ask for; None: ``placement.min_copies``."""


class UpPolicy(Section):
    """Adding replicas."""

    stable: Wait = 10.0
    """Time for which more replicas must be wanted without a break."""
    step: SomeReplicas = 4
    """Replicas added at once, at most."""


class DownPolicy(Section):
    """Taking replicas away."""

    stable: Wait = 300.0
    """Time for which fewer replicas must have been enough at every look."""
    step: SomeReplicas = 1
    """Replicas taken away at once, at most."""
    drain: Wait = 60.0
    """Time that a replica has to hand over what only it holds."""


class ScheduleEntry(Section):
    """Other bounds of the replica count at certain times of the week."""

    days: str = "mon-sun"
    """``mon-fri``, ``sat``, or a list with commas: the days on which it begins."""
    from_: Annotated[str, Field(alias="from")] = "00:00"
    to: str = "24:00"
    """Ends the entry on the next day if it is before ``from``."""
    zone: str = "UTC"
    min: Replicas | None = None
    max: SomeReplicas | None = None

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


class ReplicasPolicy(Section):
    """Bounds of the number of replicas, and what asks for more and fewer."""

    mode: Mode = "on"
    """``off``: the count is ``min``, or the schedule's."""
    min: Replicas = 1
    max: SomeReplicas = 2
    target: Annotated[Share, Field(ge=0.01, le=1)] = 0.7
    """Share of a replica's time that work may take."""
    cold_share: Annotated[Share, Field(ge=0, le=1)] = 0.02
    """Share of requests that may find an adapter missing before a replica is added for memory."""
    up: UpPolicy = UpPolicy()
    down: DownPolicy = DownPolicy()
    zero_after: Annotated[Seconds, Field(ge=1, le=30 * DAY_S)] | None = None
    """Time without a request after which no replica is kept; needs ``min`` 0."""
    forecast: Literal["off", "trend", "daily"] = "off"
    """Load to add replicas for before it has come; none goes for it."""
    hold: Wait = 30.0
    """Time that a request waits for the first replica."""
    schedule: Annotated[tuple[ScheduleEntry, ...], Field(max_length=MOST_ENTRIES)] = ()
    """Of several entries that hold, the last one wins."""


class PlacementPolicy(Section):
    """Parameters of placing adapters on replicas."""

    mode: Mode = "on"
    """``off``: nothing is placed; demand alone brings adapters in."""
    churn: Annotated[Share, Field(ge=0.001, le=1)] = 0.1
    """Share of the bytes of all pools that a minute may move; promises may move more."""
    payback: Annotated[Seconds, Field(ge=1, le=DAY_S)] = 300.0
    """Time within which a move must save more seconds than it costs."""
    min_copies: SomeReplicas = 1
    """Copies of each set of adapters that is asked for."""
    max_copies: SomeReplicas | None = None
    """Most copies of a set; unset is one on every replica. Rules of ``adapters`` may go above it.
    """
    retry_s: Annotated[Seconds, Field(ge=0.1, le=DAY_S)] = 5.0
    """First wait after a failed prefetch; doubles with each failure."""
    max_retry_s: Annotated[Seconds, Field(ge=0.1, le=DAY_S)] = 300.0


class CopyBounds(Section):
    """Copies of an adapter that are placed. A number stands for its ``min``."""

    min: Copies | None = None
    """At least, whatever its load; None: none is promised."""
    max: SomeReplicas | None = None
    """At most, in place of ``placement.max_copies``; requests may bring in more."""

    @model_validator(mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        return value if isinstance(value, Mapping | CopyBounds) else {"min": _copies(value)}

    @model_serializer
    def _shortest(self) -> Any:
        if self.max is None:
            return self.min
        return {"max": self.max} if self.min is None else {"min": self.min, "max": self.max}


class AdapterRule(Section):
    """Bounds of the copies of each adapter that matches."""

    adapter: Annotated[str, AfterValidator(_adapters)]
    """Alias, or a pattern such as ``legal-*``."""
    owner: Annotated[str, AfterValidator(_owner)] | None = None
    """Tenant that owns it; needed only where several tenants use an alias."""
    copies: CopyBounds = CopyBounds(min=1)


class PickingPolicy(Section):
    """Parameters of picking a replica for a request."""

    bound: Annotated[Number, Field(ge=1, le=1000)] = 1.25
    """A replica with a full batch and more than this many times the mean load is passed over."""
    harm: Annotated[Number, Field(ge=0, le=1000)] = 0.25
    """Weight of the seconds that a request costs others."""
    prefix: StrictBool = True
    """Prefer the replica that has the prompt's beginning in its prefix cache."""
    explain: Annotated[Share, Field(ge=0, le=1)] = 0.01
    """Share of requests whose pick is explained in the request log."""
    max_queued: Annotated[int, BeforeValidator(read_count), Field(ge=1, le=1_000_000)] = 1024
    """A replica with this many requests waiting gets no more. As many may wait at a front while no
    replica takes them; beyond that only tenants are let in that have less than their share."""


class ClusterPolicy(Section):
    """The whole document."""

    version: Literal[2] = 2
    """Of the document's form."""
    tiers: dict[TierName, TierPolicy] = Field(default_factory=lambda: {"standard": TierPolicy()})
    tenants: dict[TenantPattern, str] = Field(default_factory=lambda: {"*": "standard"})
    """Tier by pattern of tenants; the first that matches holds."""
    replicas: ReplicasPolicy = ReplicasPolicy()
    placement: PlacementPolicy = PlacementPolicy()
    adapters: tuple[AdapterRule, ...] = ()
    picking: PickingPolicy = PickingPolicy()

    @classmethod
    def fixed(cls, replicas: int) -> "ClusterPolicy":
        """Return the defaults with a replica count that never changes."""
        return cls(replicas=ReplicasPolicy(min=replicas, max=replicas))
