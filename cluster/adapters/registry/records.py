"""Defines the registry's records, one per field: versions, names, folder entries and routers.

Field names: ``v:<digest>``, ``n:<owner>/<alias>``, ``f:<alias>`` and ``r:<name>``. Records are
JSON; a change is conditional on the exact bytes that were read, so a record is written by
``encode`` alone.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from cluster.domain.adapter import AdapterManifest, BaseCheck
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import IntegrityError

VERSION = "v:"
NAME = "n:"
FOLDER = "f:"
ROUTER = "r:"
IDENTITY = "i:registry"
"""Set once; a registry without it is new, or has lost its data."""

T = TypeVar("T", "AdapterVersion", "Name", "RouterRecord")


class VersionState(StrEnum):
    """The life of a version in the registry."""

    STAGED = "staged"  # stored and checked; replicas are being asked whether they can serve it
    SERVED = "served"  # names point to it, now or in their history
    RETIRED = "retired"  # no name knows it; leaves when no request holds it
    COLLECTING = "collecting"  # its files are going; it cannot come back before they are gone


class PlaceKind(StrEnum):
    """The place of a version's files."""

    FOLDER = "folder"  # in the configured adapters_dir, under ``path``
    STORE = "store"  # in the content-addressed store, under its digest


@dataclass(frozen=True, slots=True)
class Place:
    """Locates a version's files without an absolute path: machines may mount them differently."""

    kind: PlaceKind
    path: str = ""


class AddOutcome(StrEnum):
    """Names the ways in which a replica's try of an adapter or a router can end."""

    LOADED = "loaded"
    CHECKED = "checked"  # an adapter's files are good; there is no room on the device now
    REFUSED = "refused"
    SILENT = "silent"  # no answer in time

    @property
    def works(self) -> bool:
        """Report whether the replica can serve it."""
        return self in (AddOutcome.LOADED, AddOutcome.CHECKED)


@dataclass(frozen=True, slots=True)
class ReplicaAnswer:
    """One replica's answer when it was asked to serve a staged version or a router."""

    replica_id: str
    outcome: AddOutcome
    code: str = ""  # of the error where refused
    message: str = ""


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One version. ``names`` are ``owner/alias`` of all names with it, now or in their history."""

    manifest: AdapterManifest
    place: Place
    state: VersionState
    source: str  # where it came from, for display
    added_at: float  # wall clock, seconds
    changed_at: float  # wall clock, seconds: when ``state`` was entered
    names: tuple[str, ...] = ()
    wanted_by: str = ""  # the name it is staged for
    answers: tuple[ReplicaAnswer, ...] = ()  # of replicas, while it is staged
    tags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # remarks on its files for display, a sentence each
    base_check: BaseCheck | None = None  # what must agree with the base; None: as configured

    @property
    def digest(self) -> AdapterDigest:
        """The digest, which is its identity."""
        return self.manifest.digest


@dataclass(frozen=True, slots=True)
class HistoryStep:
    """One entry of a name's history."""

    digest: AdapterDigest
    at: float  # wall clock, seconds
    by: str  # tenant id, or "config" for a configured folder
    rollback: bool = False


@dataclass(frozen=True, slots=True)
class Name:
    """An alias and where it points: the last step of its history."""

    owner: TenantId
    alias: str
    history: tuple[HistoryStep, ...]  # oldest first, never empty
    pinned: bool = False  # its version stays on every replica
    grants: tuple[str, ...] = ()  # tenants that may use a shared name without having rights

    @property
    def digest(self) -> AdapterDigest:
        """The version it points to."""
        return self.history[-1].digest

    @property
    def id(self) -> str:
        """``owner/alias``."""
        return name_id(self.owner, self.alias)


@dataclass(frozen=True, slots=True)
class RouterRecord:
    """A router that was added while the cluster serves; it stands before a configured namesake."""

    name: str
    kind: str
    version: str  # of its artifact in the store; empty for a kind that has none
    added_at: float  # wall clock, seconds: when the name was new
    changed_at: float  # wall clock, seconds: when this version was put in
    by: str  # tenant id
    options: dict[str, Any] = field(default_factory=dict)  # the kind's own settings


def name_id(owner: str, alias: str) -> str:
    """Build the key of a name; an owner has no slash."""
    return f"{owner}/{alias}"


def encode(record: AdapterVersion | Name | RouterRecord) -> bytes:
    """Encode a record for the store."""
    return msgspec.json.encode(record)


def decode(field: str, raw: bytes, kind: type[T]) -> T:
    """Decode a record; ``field`` is for the message.

    Raises:
        IntegrityError: not a record of this kind; the message names the field.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise IntegrityError(f"registry: {field}: {error}") from error
