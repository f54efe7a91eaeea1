"""The tenants file: those who may call, with their adapters and limits."""

import hmac
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.domain.ids import TenantId
from cluster.errors import AuthenticationFailed, ConfigError
from cluster.field_problems import field_path
from cluster.regular_file import read_regular
from cluster.strict_yaml import load_strict_yaml
from cluster.tenancy.keys import hash_key
from cluster.tenancy.limits import QuotaLimits
from cluster.tenancy.shares import DEFAULT_WEIGHT, Weight

ALL_ADAPTERS = "*"
MAX_MISTAKES = 20
PATTERNS = {
    "id": "expected at most 63 of a-z, 0-9 and hyphens, with no hyphen at the beginning",
    "keys": "expected the sha256 of a key, 64 of 0-9 and a-f: printf %s KEY | sha256sum",
}


class TenantEntry(BaseModel):
    """One entry of the tenants file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    keys: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...], Field(min_length=1)
    ]
    """sha256 (hex) of each key; several allow a change of keys without a gap."""
    adapters: tuple[str, ...] = ()
    """Aliases that the tenant may use, or "*" for all."""
    admin: bool = False
    metrics: bool = False
    """May read /metrics, which names every tenant and its use."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    weight: Weight = DEFAULT_WEIGHT
    """Share of the cluster relative to other tenants when it is full; a tier of the policy that
    names a weight has the last word."""


class TenantsFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenants: Annotated[tuple[TenantEntry, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Tenant:
    """A caller that has been authenticated."""

    id: TenantId
    adapters: frozenset[str]  # aliases, or {"*"}
    admin: bool = False
    metrics: bool = False
    limits: QuotaLimits = field(default_factory=QuotaLimits)
    weight: float = DEFAULT_WEIGHT

    def may_use(self, alias: str) -> bool:
        """Report whether the tenant may see and use the adapter of this alias."""
        return ALL_ADAPTERS in self.adapters or alias in self.adapters


def own_weights(tenants: Iterable[Tenant]) -> dict[TenantId, float]:
    """Return each tenant's weight."""
    return {tenant.id: tenant.weight for tenant in tenants}


class TenantDirectory:
    """All tenants, found by their keys."""

    def __init__(self, source: str, entries: Iterable[TenantEntry]) -> None:
        """Take the entries; ``source`` names the file in messages.

        Raises:
            ConfigError: an id or a key is used twice.
        """
        self._source = source
        self._entries = tuple(entries)
        self._tenants = tuple(_tenant(entry) for entry in self._entries)
        self._by_id = {tenant.id: tenant for tenant in self._tenants}
        self._hashes: list[tuple[bytes, Tenant]] = []
        ids: dict[str, int] = {}
        owners: dict[str, str] = {}
        for index, (entry, tenant) in enumerate(zip(self._entries, self._tenants, strict=True)):
            if entry.id in ids:
                raise ConfigError(
                    f"{source}: tenants[{index}].id: {entry.id!r} is also tenants[{ids[entry.id]}]"
                )
            ids[entry.id] = index
            for number, digest in enumerate(entry.keys):
                where = f"tenants[{index}].keys[{number}]"
                if digest in owners:
                    raise ConfigError(f"{source}: {where}: the same key as {owners[digest]}")
                owners[digest] = where
                self._hashes.append((digest.encode(), tenant))

    @property
    def tenants(self) -> tuple[Tenant, ...]:
        """Return all tenants in the file's order."""
        return self._tenants

    @property
    def entries(self) -> tuple[TenantEntry, ...]:
        """Return the entries as they were written, in the file's order."""
        return self._entries

    def find(self, tenant: TenantId) -> Tenant | None:
        """Return the tenant of an id, or None."""
        return self._by_id.get(tenant)

    def tenant(self, tenant: TenantId) -> Tenant:
        """Return the tenant of an id.

        Raises:
            KeyError: there is none.
        """
        return self._by_id[tenant]

    def authenticate(self, authorization: str | None) -> Tenant:
        """Return the tenant of an ``Authorization: Bearer <key>`` header.

        Every known hash is compared in constant time, so the time taken tells nothing of which
        one was near.

        Raises:
            AuthenticationFailed: no header, another scheme, or an unknown key.
        """
        scheme, _, key = (authorization or "").strip().partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise AuthenticationFailed(
                "No API key was given: send the header 'Authorization: Bearer <key>'"
            )
        digest = hash_key(key).encode()
        found: Tenant | None = None
        for known, tenant in self._hashes:
            if hmac.compare_digest(known, digest):
                found = tenant
        if found is None:
            raise AuthenticationFailed("The API key is not known")
        return found

    def check_rights(self, known_aliases: Collection[str]) -> None:
        """Refuse rights to adapters that do not exist.

        Raises:
            ConfigError: all of them, each with the path of its entry.
        """
        unknown = [
            f"tenants[{index}].adapters[{number}]: no adapter {alias!r}"
            for index, entry in enumerate(self._entries)
            for number, alias in enumerate(entry.adapters)
            if alias != ALL_ADAPTERS and alias not in known_aliases
        ]
        if unknown:
            have = ", ".join(sorted(known_aliases)) or "none"
            raise ConfigError(f"{self._source}: {'; '.join(unknown)} (there are: {have})")


def load_tenants(path: Path) -> TenantDirectory:
    """Read a tenants file.

    Raises:
        ConfigError: unreadable, not YAML, or an entry is wrong; the message has its path, such as
            ``tenants[1].adapters[0]``, for every mistake.
    """
    return parse_tenants(read_tenants_file(path), source=str(path))


def read_tenants_file(path: Path) -> bytes:
    """Read the file's content.

    Raises:
        ConfigError: it cannot be read.
    """
    return read_regular(path)


def parse_tenants(content: bytes, *, source: str) -> TenantDirectory:
    """Parse the tenants in ``content`` (YAML); ``source`` names it in messages.

    Raises:
        ConfigError: as ``load_tenants``.
    """
    try:
        tree = load_strict_yaml(content.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not YAML: {error}") from error
    try:
        parsed = TenantsFile.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{source}: {'; '.join(_mistakes(error)[:MAX_MISTAKES])}") from error
    return TenantDirectory(source, parsed.tenants)


def _mistakes(error: ValidationError) -> list[str]:
    """Describe each mistake; lists that are too short only for their wrong items are left out."""
    found = error.errors()
    return [
        f"{field_path(one['loc']) or 'file'}: {_words(one['loc'], one['type'], one['msg'])}"
        for one in found
        if one["type"] != "too_short"
        or not any(_is_inside(other["loc"], one["loc"]) for other in found)
    ]


def _is_inside(path: tuple[Any, ...], outer: tuple[Any, ...]) -> bool:
    return len(path) > len(outer) and path[: len(outer)] == outer


def _words(path: tuple[Any, ...], kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        known = TenantEntry.model_fields if len(path) > 1 else TenantsFile.model_fields
        return f"unknown key; known keys: {', '.join(known)}"
    if kind == "model_type":
        words = "expected a mapping of keys and values"
        return words if path else f'{words}; begin with "tenants:"'
    if kind == "too_short":
        return "expected at least one entry"
    if kind == "string_pattern_mismatch":
        return PATTERNS["keys" if "keys" in path else str(path[-1])]
    return message


def _tenant(entry: TenantEntry) -> Tenant:
    return Tenant(
        id=TenantId(entry.id),
        adapters=frozenset(entry.adapters),
        admin=entry.admin,
        metrics=entry.metrics,
        limits=QuotaLimits(
            entry.requests_per_minute, entry.tokens_per_minute, entry.max_concurrent
        ),
        weight=entry.weight,
    )
