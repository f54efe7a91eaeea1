"""Reads from a running cluster what a simulation of it needs."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pydantic import ValidationError

from cluster.config import EngineConfig
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import BraidError, ConfigError
from cluster.placement.cost.model import CostModel, LoadCost, StepCost
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.spec import ReplicaSpec
from cluster.tenancy.shares import DEFAULT_WEIGHT
from deployments.cli.toolkit.client import BraidClient
from deployments.cli.toolkit.console import DIGEST_CHARACTERS
from deployments.cli.toolkit.server_policy import POLICY, STATUS, defaults_of


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """One cluster as it is now."""

    url: str
    policy: ClusterPolicy
    defaults: ClusterPolicy  # the entries that a policy of it need not have
    replicas: int
    shape: ReplicaSpec | None  # None: no replica has reported
    adapters: Mapping[str, AdapterInfo]  # by alias, by digest, and as trace logs name them
    ranks: Mapping[AdapterDigest, int]
    own_weights: Mapping[TenantId, float]  # of its tenants file
    model: CostModel | None
    model_problem: str = ""  # why there is none


def read_cluster(client: BraidClient) -> ClusterFacts:
    """Ask a cluster as its administrator.

    Raises:
        NoServer: it does not answer.
        BraidError: it refuses, or its controller does not know the policy in force.
    """
    status = client.get(STATUS)
    adapters, ranks = _adapters(status["adapters"])
    model, problem = _model(client)
    replicas = status["replicas"]
    return ClusterFacts(
        url=client.url,
        policy=_policy(status["placement"]),
        defaults=defaults_of(client.get(POLICY)),
        replicas=len(replicas),
        shape=_shape(replicas[0]) if replicas else None,
        adapters=adapters,
        ranks=ranks,
        own_weights={
            TenantId(one["id"]): one.get("weight", DEFAULT_WEIGHT) for one in status["tenants"]
        },
        model=model,
        model_problem=problem,
    )


def _policy(placement: Mapping[str, Any]) -> ClusterPolicy:
    found = placement.get("policy")
    if found is None:
        raise BraidError(
            "the cluster's controller does not tell the policy in force "
            f"({placement.get('error', 'it gives none')}); try again, or see `braid status`"
        )
    try:
        return ClusterPolicy.model_validate(found, by_alias=True, by_name=True)
    except ValidationError as error:
        raise ConfigError(
            f"the cluster's policy cannot be read by this version of braid: {error}; "
            "use the version that the cluster runs"
        ) from error


def _shape(replica: Mapping[str, Any]) -> ReplicaSpec:
    """Return the shape that a replica reports; what it does not report has the default."""
    usual = ReplicaSpec()
    engine = {
        "kv_blocks": replica["kv_blocks_total"],
        "max_batch_size": replica.get("max_batch_size"),
        "max_model_len": replica.get("max_model_len"),
    }
    return ReplicaSpec(
        slots=replica["slots_total"],
        adapter_bytes=replica["adapter_bytes_limit"],
        host_bytes=replica.get("host_bytes_limit", usual.host_bytes),
        engine=EngineConfig.model_validate({key: value for key, value in engine.items() if value}),
    )


def _adapters(
    listed: list[Mapping[str, Any]],
) -> tuple[dict[str, AdapterInfo], dict[AdapterDigest, int]]:
    found: dict[str, AdapterInfo] = {}
    ranks: dict[AdapterDigest, int] = {}
    for item in listed:
        digest = AdapterDigest(item["digest"])
        info = AdapterInfo(digest, item["name"], TenantId(item["owner"] or ""), item["bytes"])
        found.setdefault(info.alias, info)
        found[f"{info.alias}@{digest[:DIGEST_CHARACTERS]}"] = info  # as trace logs have it
        found[digest] = info
        ranks[digest] = item["rank"]
    return found, ranks


def _model(client: BraidClient) -> tuple[CostModel | None, str]:
    try:
        return model_of(client.get("/admin/v1/model")), ""
    except BraidError as error:
        return None, error.message


def model_of(body: Mapping[str, Any]) -> CostModel:
    """Read the costs in force from the answer of ``GET /admin/v1/model``.

    Raises:
        BraidError: it has no coefficients, for instance because the controller is down.
    """
    try:
        step = _values(body["step"])
        host, disk = (_values(body["loads"][tier]) for tier in ("host", "disk"))
        start = float(body["start"]["seconds"])
        names = [field.name for field in fields(StepCost)]
        return CostModel(
            StepCost(**{name: step[name] for name in names}),
            LoadCost(host["latency"], host["per_byte"]),
            LoadCost(disk["latency"], disk["per_byte"]),
            start,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BraidError(
            "the cluster does not tell its cost model "
            f"({body.get('error', f'its answer lacks {error}')}); "
            "give --model default or a profile of `braid bench profile`"
        ) from error


def _values(part: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(item["value"]) for name, item in part["coefficients"].items()}
