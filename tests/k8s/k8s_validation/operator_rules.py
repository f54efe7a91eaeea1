"""Finds what the KubeRay operator refuses although the schema allows it."""

import re
from collections.abc import Iterator
from typing import Any

from k8s_validation.manifests import groups

MAX_NAME = 47
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_START_RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")
_MANAGED_ENV = ("REDIS_PASSWORD", "REDIS_USERNAME", "RAY_REDIS_ADDRESS")
_FT_ANNOTATIONS = ("ray.io/ft-enabled", "ray.io/external-storage-namespace")


def operator_problems(rayservice: dict[str, Any]) -> list[str]:
    """Return every rule of the operator (v1.7) that the RayService breaks."""
    cluster = rayservice["spec"]["rayClusterConfig"]
    return [
        *_name(rayservice["metadata"]["name"]),
        *_cluster(rayservice, cluster),
        *_fault_tolerance(rayservice, cluster),
        *(problem for name, group in groups(rayservice) for problem in _group(name, group)),
        *_scaling(cluster),
    ]


def _name(name: str) -> Iterator[str]:
    if len(name) > MAX_NAME:
        yield f"name: {len(name)} characters, at most {MAX_NAME}"
    if not _DNS_1035.fullmatch(name):
        yield f"name: {name!r} is not a DNS-1035 label"


def _cluster(rayservice: dict[str, Any], cluster: dict[str, Any]) -> Iterator[str]:
    if "upgradeStrategy" in cluster:
        yield "upgradeStrategy: belongs to the RayService, not to rayClusterConfig"
    head_service = cluster["headGroupSpec"].get("headService", {})
    if head_service.get("metadata", {}).get("name"):
        yield "headService.metadata.name: must not be set"
    if cluster.get("networkPolicy") or cluster.get("tlsOptions"):
        yield "networkPolicy and tlsOptions: their feature gates are off by default"
    auth = cluster.get("authOptions", {})
    if auth.get("enableK8sTokenAuth"):
        yield "authOptions.enableK8sTokenAuth: not for a RayService"
    version = tuple(int(part) for part in cluster.get("rayVersion", "0").split(".")[:2])
    if auth.get("mode") == "token" and version < (2, 52):
        yield "authOptions.mode: token needs rayVersion 2.52"
    if rayservice["spec"].get("rayClusterDeletionDelaySeconds", 0) < 0:
        yield "rayClusterDeletionDelaySeconds: negative"
    strategy = rayservice["spec"].get("upgradeStrategy", {}).get("type", "NewCluster")
    if strategy not in ("NewCluster", "NewClusterWithIncrementalUpgrade", "None"):
        yield f"upgradeStrategy.type: {strategy!r}"


def _fault_tolerance(rayservice: dict[str, Any], cluster: dict[str, Any]) -> Iterator[str]:
    head = cluster["headGroupSpec"]
    env = {entry["name"] for entry in head["template"]["spec"]["containers"][0].get("env", [])}
    options = cluster.get("gcsFaultToleranceOptions")
    if options is None:
        if "RAY_REDIS_ADDRESS" in env:
            yield "RAY_REDIS_ADDRESS: needs gcsFaultToleranceOptions"
        return
    for name in _MANAGED_ENV:
        if name in env:
            yield f"env {name}: set by gcsFaultToleranceOptions"
    for name in ("redis-password", "redis-username"):
        if name in head.get("rayStartParams", {}):
            yield f"rayStartParams.{name}: set by gcsFaultToleranceOptions"
    for name in _FT_ANNOTATIONS:
        if name in rayservice["metadata"].get("annotations", {}):
            yield f"annotation {name}: set by gcsFaultToleranceOptions"
    if "storage" in options and options.get("backend") != "rocksdb":
        yield "gcsFaultToleranceOptions.storage: only with backend rocksdb"
    if "externalStorageNamespace" in options:
        yield "externalStorageNamespace: the old and the new cluster would share their state"


def _group(name: str, group: dict[str, Any]) -> Iterator[str]:
    params = group.get("rayStartParams", {})
    both = [key for key in _START_RESOURCES if params.get(key)]
    if both and group.get("resources"):
        yield f"{name}: resources are set in rayStartParams ({', '.join(both)}) and in resources"
    if "labels" in params:
        yield f"{name}: rayStartParams.labels is not supported"
    containers = group["template"]["spec"].get("containers", [])
    if not containers or not containers[0]["name"].startswith("ray-"):
        yield f"{name}: the Ray container must be the first one"


def _scaling(cluster: dict[str, Any]) -> Iterator[str]:
    scaled = cluster.get("enableInTreeAutoscaling", False)
    v2 = scaled and cluster.get("autoscalerOptions", {}).get("version", "v2") == "v2"
    head = cluster["headGroupSpec"]["template"]["spec"]
    env = {entry["name"] for entry in head["containers"][0].get("env", [])}
    if "RAY_enable_autoscaler_v2" in env:
        yield "env RAY_enable_autoscaler_v2: use autoscalerOptions.version"
    if v2 and head.get("restartPolicy", "Never") != "Never":
        yield "head: restartPolicy must be Never or unset with autoscaler v2"
    for group in cluster.get("workerGroupSpecs", []):
        name, low, high = group["groupName"], group.get("minReplicas"), group.get("maxReplicas")
        if not scaled and (low is None or high is None):
            yield f"{name}: minReplicas and maxReplicas are needed without autoscaling"
        if low is not None and high is not None and not 0 <= low <= high:
            yield f"{name}: minReplicas {low} and maxReplicas {high} are out of order"
        if v2 and group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{name}: restartPolicy must be Never or unset with autoscaler v2"
