"""The bodies of the administrator's adapter routes, and what they answer."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from cluster.adapters.registry.operations import ABSENT, previous_of
from cluster.adapters.registry.records import AdapterVersion, Name, VersionState
from cluster.adapters.registry.registry_view import RegistryView
from cluster.domain.adapter import AdapterState, BaseCheck
from cluster.domain.ids import AdapterDigest
from cluster.domain.replica import ReplicaSnapshot
from deployments.front.admin.adapter_admin import NameChange
from deployments.front.http.body_types import FEW, Body, NameText, NameToAdd, Off, ShortText
from deployments.front.http.query import Digest, OwnerQuery

GrantName = Annotated[str, Field(pattern=r"^(\*|[a-z0-9][a-z0-9-]{0,62})$")]

TIERS = {
    AdapterState.FETCHING: "disk",
    AdapterState.ON_HOST: "host",
    AdapterState.LOADING: "host",
    AdapterState.READY: "device",
    AdapterState.EVICTING: "device",
}
"""Tier of a version's weights in each state."""


class SourceBody(Body):
    """The source of an adapter; exactly one."""

    folder: ShortText | None = None
    hub: ShortText | None = None
    revision: NameText = "main"
    url: ShortText | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "SourceBody":
        if sum(item is not None for item in (self.folder, self.hub, self.url)) != 1:
            raise ValueError("source: expected exactly one of folder, hub and url")
        return self


class NameBody(OwnerQuery):
    """A name, and the version that it is expected to point to."""

    expected: Digest | None = None
    """The version that it must point to now."""

    @property
    def expected_digest(self) -> AdapterDigest | None:
        """Return the digest for compare-and-set; None accepts any."""
        return None if self.expected is None else AdapterDigest(self.expected)


class TargetBody(NameBody):
    """A name that is to point somewhere."""

    replace: bool = False
    """Without ``expected``: whether the name may exist already."""
    grants: Annotated[tuple[GrantName, ...], FEW] | None = None
    """Tenants that may use a shared name, besides those with rights; "*" is everyone."""

    @model_validator(mode="after")
    def _own_or_granted(self) -> "TargetBody":
        if self.tenant is not None and self.grants:
            raise ValueError("grants: a tenant's own name is for that tenant alone")
        return self

    def change(self, alias: str, *, replace: bool) -> NameChange:
        """Return the change of the name ``alias``."""
        expected = self.expected_digest
        if expected is None and not replace:
            expected = ABSENT
        return NameChange(alias, self.owner, expected, self.grants)


class UploadParameters(TargetBody):
    """``POST /admin/v1/adapters`` with an archive as its body: the query."""

    name: NameToAdd
    base_check: BaseCheck | None = None
    """Sets what must agree with the base for this one; null: as configured."""


class AddBody(UploadParameters):
    """``POST /admin/v1/adapters``."""

    source: SourceBody


class AliasBody(TargetBody):
    """``POST /admin/v1/adapters/{name}/switch``."""

    version: Digest


class PinBody(NameBody):
    """``POST /admin/v1/adapters/{name}/pin``."""

    pinned: bool = True


class VllmLoadBody(Body):
    """vLLM's ``POST /v1/load_lora_adapter``."""

    lora_name: NameToAdd
    lora_path: ShortText
    load_inplace: bool | None = None
    lora_int_id: int | None = None  # vLLM's own number, which names nothing here
    base_model_name: None = None  # the cluster's base is meant
    is_3d_lora_weight: Off = None


class VllmUnloadBody(Body):
    """vLLM's ``POST /v1/unload_lora_adapter``."""

    lora_name: NameText
    lora_int_id: int | None = None


def adapter_card(
    view: RegistryView, name: Name, snapshots: tuple[ReplicaSnapshot, ...]
) -> dict[str, Any]:
    """Describe one name with its version, its history, and the replicas that have it."""
    version = view.of_name(name)
    return {
        "object": "adapter",
        "name": name.alias,
        "owner": name.owner,
        "state": "serving",
        "version": name.digest,
        "previous": previous_of(name),
        "pinned": name.pinned,
        "grants": list(name.grants),
        **_about(version),
        "history": [
            {"version": step.digest, "at": step.at, "by": step.by, "rollback": step.rollback}
            for step in name.history
        ],
        "residency": holders(name.digest, snapshots),
    }


def version_card(
    view: RegistryView, version: AdapterVersion, snapshots: tuple[ReplicaSnapshot, ...]
) -> dict[str, Any]:
    """Describe one version and the replicas that have it."""
    return {
        "object": "adapter.version",
        "version": version.digest,
        "state": version.state.value,
        "names": [name.id for name in view.names_at(version.digest)],
        "in_history_of": list(version.names),
        **_about(version),
        **progress(version),
        "residency": holders(version.digest, snapshots),
    }


def progress(version: AdapterVersion) -> dict[str, Any]:
    """Describe the replicas' answers on a version that is being added."""
    return {
        "wanted_by": version.wanted_by,
        "answers": [
            {
                "replica": answer.replica_id,
                "outcome": answer.outcome,
                "code": answer.code,
                "message": answer.message,
            }
            for answer in version.answers
        ],
    }


def staged_for(view: RegistryView, name: str) -> list[AdapterVersion]:
    """Return the versions that are being added for a name (``owner/alias``) now."""
    staged = view.in_state(VersionState.STAGED)
    return [version for version in staged if version.wanted_by == name]


def holders(digest: AdapterDigest, snapshots: tuple[ReplicaSnapshot, ...]) -> list[dict[str, Any]]:
    """Describe the replicas that have a version."""
    return [
        {
            "replica": snapshot.replica_id,
            "tier": TIERS.get(held.state, "disk"),
            "state": held.state.value,
            "bytes": held.nbytes,
            "leases": held.leases,
        }
        for snapshot in snapshots
        for held in snapshot.resident
        if held.digest == digest
    ]


def _about(version: AdapterVersion) -> dict[str, Any]:
    manifest = version.manifest
    return {
        "rank": manifest.max_rank,
        "bytes": manifest.nbytes,
        "target_modules": list(manifest.target_modules),
        "chat_template": "base's" if manifest.chat_template is None else "own",
        "description": manifest.description,
        "tags": list(version.tags),
        "notes": list(version.notes),
        "source": version.source,
        "added_at": version.added_at,
    }
