"""What goes into the adapter pool and what it answers: data only."""

from dataclasses import dataclass

from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, Slot, TenantId

SOMEBODY = TenantId("")
"""Asks for adapters where tenants do not matter: one for all."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that somebody wants in the pool."""

    digest: AdapterDigest
    alias: str
    rank: int
    nbytes: int  # on the device, an upper bound
    invocation_tokens: tuple[int, ...] = ()  # of an activated LoRA


@dataclass(frozen=True, slots=True)
class Lease:
    """A request's hold on its versions, in the order it asked for them."""

    id: int
    digests: tuple[AdapterDigest, ...]
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class AdapterEvent:
    """One change of state."""

    digest: AdapterDigest
    alias: str
    before: AdapterState
    after: AdapterState
    slot: Slot | None  # the slot held before or after


@dataclass(frozen=True, slots=True)
class Admitted:
    """Room is promised. ``start`` were absent and must now be fetched."""

    lease: Lease | None  # None for a prefetch
    start: tuple[AdapterDigest, ...]


@dataclass(frozen=True, slots=True)
class MustEvict:
    """These are EVICTING now; ask again when one is gone. ``victims`` are new, maybe none."""

    victims: tuple[AdapterDigest, ...]


@dataclass(frozen=True, slots=True)
class MustWait:
    """Everything that could make room is in use."""
