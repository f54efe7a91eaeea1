"""Reads policies and the cluster that they are for: from files, from a server, from versions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import BraidError, ConfigError
from cluster.field_problems import all_problems
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.advice import advice
from cluster.placement.policy.policy_load import examine_policy, parse_policy
from cluster.placement.policy.policy_text import Unreadable, decoded
from cluster.placement.policy.present_cluster import (
    PresentCluster,
    advice_there,
    problems_there,
)
from cluster.placement.policy.problems import PolicyProblem
from cluster.regular_file import read_regular
from deployments.cli.toolkit.client import BraidClient
from deployments.cli.toolkit.server_policy import POLICY, STATUS, defaults_of, policy_of


@dataclass(frozen=True, slots=True)
class NamedText:
    """A policy's text, and what people call it."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class ComparedPolicy:
    """A policy, and what people call it."""

    name: str
    policy: ClusterPolicy


@dataclass(frozen=True, slots=True)
class PolicyThere:
    """The policy in force on a server, and the cluster that it is for."""

    shown: Mapping[str, Any]  # as GET /admin/v1/policy answers
    in_force: ComparedPolicy  # as the server reads it: its text may be of another release, or lost
    defaults: ClusterPolicy
    present: PresentCluster

    @classmethod
    def ask(cls, client: BraidClient) -> "PolicyThere":
        """Ask a server.

        Raises:
            ConfigError: its answers are of another release.
        """
        shown = client.get(POLICY)
        name = f"version {shown['version']}, in force"
        in_force = ComparedPolicy(name, policy_of(shown["effective"]))
        present = present_cluster_of(client.get(STATUS))
        return cls(shown, in_force, defaults_of(shown), present)

    def read(self, named: NamedText) -> ComparedPolicy:
        """Parse a text. Raises as ``parsed``."""
        return ComparedPolicy(named.name, parsed(named, self.defaults))


class _Tenant(BaseModel):
    id: str


class _Adapter(BaseModel):
    digest: str
    name: str
    owner: str | None
    bytes: int


class _Replica(BaseModel):
    slots_total: int
    adapter_bytes_limit: int


class _Placement(BaseModel):
    replica_count: int | None = None


class _Status(BaseModel):
    """The part of a cluster's description that a policy is compared with."""

    tenants: tuple[_Tenant, ...]
    adapters: tuple[_Adapter, ...]
    replicas: tuple[_Replica, ...]
    placement: _Placement = _Placement()  # without a count while the controller is silent


@dataclass(frozen=True, slots=True)
class Verdict:
    """The findings about one policy."""

    policy: ClusterPolicy | None
    problems: tuple[PolicyProblem, ...]
    warnings: tuple[PolicyProblem, ...]


def read_policy_file(path: Path) -> NamedText:
    """Read a file.

    Raises:
        ConfigError: it cannot be read, or is not text.
    """
    try:
        return NamedText(str(path), decoded(read_regular(path)))
    except Unreadable as error:
        raise ConfigError(f"{path}:{error.line}: {error.message}") from error


def text_of(what: str, client: BraidClient) -> NamedText:
    """Return the version of a number, or the file of a name."""
    if what.isascii() and what.isdecimal():
        if not what.strip("0"):
            return NamedText("version 0 (the defaults)", "version: 2\n")
        found = client.get(f"{POLICY}/versions/{what}")
        return NamedText(f"version {what}", str(found["text"]))
    return read_policy_file(Path(what))


def parsed(named: NamedText, defaults: ClusterPolicy) -> ClusterPolicy:
    """Parse a text.

    Raises:
        ConfigError: entries are wrong; the message has a line for each.
    """
    return parse_policy(named.text.encode(), source=named.name, defaults=defaults)


def judge(
    named: NamedText, defaults: ClusterPolicy | None = None, present: PresentCluster | None = None
) -> Verdict:
    """Check a policy alone, and against a cluster if one is known."""
    reading = examine_policy(named.text.encode(), defaults)
    policy = reading.policy
    problems, warnings = list(reading.problems), list[PolicyProblem]()
    if policy is not None:
        warnings += advice(policy)
        if present is not None:
            problems += problems_there(policy, present)
            warnings += advice_there(policy, present)
    return Verdict(policy, tuple(problems), tuple(warnings))


def present_cluster_of(status: Mapping[str, Any]) -> PresentCluster:
    """Return the facts in an answer of ``GET /admin/v1/status``.

    Raises:
        ConfigError: it is something else.
    """
    try:
        there = _Status.model_validate(status)
    except ValidationError as error:
        raise ConfigError(
            f"not an answer of GET {STATUS}: {all_problems(error, root='document')}"
        ) from error
    first = there.replicas[0] if there.replicas else None
    return PresentCluster(
        tenants=frozenset(tenant.id for tenant in there.tenants),
        adapters=tuple(
            AdapterInfo(
                AdapterDigest(item.digest), item.name, TenantId(item.owner or ""), item.bytes
            )
            for item in there.adapters
        ),
        slots=first.slots_total if first else None,
        adapter_bytes=first.adapter_bytes_limit if first else None,
        replicas=len(there.replicas),
        starting=max(0, (there.placement.replica_count or 0) - len(there.replicas)),
    )


def saved_cluster(path: Path) -> PresentCluster:
    """Read a saved answer of ``GET /admin/v1/status``.

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    try:
        return present_cluster_of(json.loads(read_regular(path)))
    except (ValueError, BraidError) as error:
        reason = error.message if isinstance(error, BraidError) else f"not JSON: {error}"
        raise ConfigError(f"--against {path}: {reason}") from error
