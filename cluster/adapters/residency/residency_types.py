"""Declares the data of the adapter pool, and the parts with tensors that the manager needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from cluster.adapters.format.peft_config import module_ranks
from cluster.domain.adapter import AdapterEntry, AdapterState
from cluster.domain.ids import AdapterDigest, Slot, TenantId
from cluster.domain.plan_version import PlanVersion
from cluster.errors import AdapterError

AdapterTier = Literal["device", "loading", "host", "disk"]
"""Says how near an adapter is: in its slot, on its way there, in host memory, or in its files."""

ANY_TENANT = TenantId("")
"""Asks for adapters where tenants do not matter: one for all."""


@dataclass(frozen=True, slots=True)
class SizedVersion:
    """A version and the room that it needs."""

    digest: AdapterDigest
    alias: str
    rank: int
    nbytes: int  # packed, on the device or on the host; an upper bound
    invocation_tokens: tuple[int, ...] = ()  # of an activated LoRA


class Lease(NamedTuple):
    """A request's claim on its versions, in the order it asked for them."""

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
    slot: Slot | None  # the version's slot before or after the change


@dataclass(frozen=True, slots=True)
class Admitted:
    """Answers that room is promised. ``start`` were absent and must now be fetched."""

    lease: Lease | None  # None for a prefetch
    start: tuple[AdapterDigest, ...]


@dataclass(frozen=True, slots=True)
class MustEvict:
    """Answers to ask again once an EVICTING version is gone; ``victims`` have just become so."""

    victims: tuple[AdapterDigest, ...]


@dataclass(frozen=True, slots=True)
class MustWait:
    """Answers that every adapter that could make room is in use."""


@dataclass(frozen=True, slots=True)
class PlacementAck:
    """The result of a placement."""

    version: PlanVersion  # the one in force; later than the one sent where that was refused
    loaded: tuple[AdapterDigest, ...]  # of the placement, READY now
    failed: tuple[tuple[AdapterDigest, str, str], ...]  # (digest, error code, message)
    evicted: tuple[AdapterDigest, ...]  # here before, gone now


class VersionSource(Protocol):
    """The source of the manager's versions; an ``AdapterCatalog`` is one."""

    def by_digest(self, digest: AdapterDigest) -> AdapterEntry:
        """Return the version that a digest names.

        Raises:
            ModelNotFound: it is not known here.
            AdapterError: its files cannot be had.
        """
        ...


class AdapterBankProtocol(Protocol):
    """The device tensors behind the slots. Called from executor threads, one call per slot."""

    def place(self, slot: int, packed: Any) -> None:
        """Fill a slot with an adapter that the loader returned."""
        ...

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        ...

    def required_nbytes(self, ranks: Mapping[str, int]) -> int:
        """Return the device bytes that an adapter with these ranks (module path -> rank) takes.

        Raises:
            ValueError: the base has no such module.
        """
        ...

    def nbytes(self, slot: int) -> int:
        """Return the device bytes that a slot's content takes."""
        ...


class HostAdapterProtocol(Protocol):
    """An adapter in the bank's own form, in host memory; the loader returns it."""

    @property
    def nbytes(self) -> int:
        """Bytes in host memory: as many as ``required_nbytes`` returned."""
        ...


def sized_version(entry: AdapterEntry, bank: AdapterBankProtocol) -> SizedVersion:
    """Compute the room that a version needs.

    Raises:
        AdapterError: it does not fit the base model.
    """
    manifest = entry.manifest
    try:
        nbytes = bank.required_nbytes(module_ranks(manifest))
    except ValueError as error:
        raise AdapterError(f"adapter {entry.key.alias}: does not fit the base: {error}") from error
    return SizedVersion(
        entry.key.digest,
        entry.key.alias,
        manifest.max_rank,
        nbytes,
        manifest.invocation_tokens,
    )
