"""Schema checks: Kubernetes' own kinds, the RayService CRD, and a small schema that is always here.

Each check returns its complaints; an empty list is a valid object.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from k8s_validation.manifests import ROOT

KUBERNETES_VERSION = "1.35"
CUSTOM_KINDS = {"RayService", "PodMonitor"}
_CRD_FILE = "ray.io_rayservices.crd.yaml"


def core_problems(document: dict[str, Any]) -> list[str]:
    """Check an object of a built-in kind, unknown keys forbidden."""
    try:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(str(part) for part in error.path)}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [error.message]
    return []


def crd_path() -> Path | None:
    """Return where the RayService CRD lies, if anywhere."""
    named = os.environ.get("KUBERAY_CRD")
    path = Path(named) if named else ROOT.parent / "shared" / "k8s" / _CRD_FILE
    return path if path.is_file() else None


def crd_validator(path: Path) -> Callable[[dict[str, Any]], list[str]]:
    """Return the check of a RayService against the CRD, unknown keys forbidden."""
    crd = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    version = next(entry for entry in crd["spec"]["versions"] if entry["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"].pop("metadata", None)
    strict = _strict(schema)
    strict["properties"]["metadata"] = {"type": "object"}
    return _checker(strict)


def _strict(node: Any) -> Any:
    """Turn a structural OpenAPI schema into JSON schema that knows every key it allows."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = {key: _strict(value) for key, value in node.items() if not key.startswith("x-kubernetes")}
    if node.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
        out["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if isinstance(node.get("type"), str):
        if out.pop("nullable", False):
            out["type"] = [node["type"], "null"]
        if (
            node["type"] == "object"
            and "properties" in node
            and "additionalProperties" not in node
            and not node.get("x-kubernetes-preserve-unknown-fields")
        ):
            out["additionalProperties"] = False
    return out


def _checker(schema: dict[str, Any]) -> Callable[[dict[str, Any]], list[str]]:
    validator = jsonschema.Draft202012Validator(schema)

    def problems(document: dict[str, Any]) -> list[str]:
        return [
            f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"
            for error in validator.iter_errors(document)
        ]

    return problems


def _closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


_STRING = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_STRINGS = {"type": "object", "additionalProperties": _STRING}
_LABELLED = _closed([], name=_STRING, labels=_STRINGS, annotations=_STRINGS)
_TEMPLATE = _closed(["metadata", "spec"], metadata=_LABELLED, spec={"type": "object"})
_SECRET_REF = _closed(
    ["valueFrom"],
    valueFrom=_closed(
        ["secretKeyRef"], secretKeyRef=_closed(["name", "key"], name=_STRING, key=_STRING)
    ),
)
_HEAD = _closed(["rayStartParams", "template"], rayStartParams=_STRINGS, template=_TEMPLATE)
_WORKERS = _closed(
    ["groupName", "replicas", "minReplicas", "maxReplicas", "resources", "template"],
    groupName=_STRING,
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    resources=_STRINGS,
    rayStartParams=_STRINGS,
    template=_TEMPLATE,
)
_CLUSTER = _closed(
    ["rayVersion", "headGroupSpec", "workerGroupSpecs", "gcsFaultToleranceOptions"],
    rayVersion=_STRING,
    authOptions=_closed(["mode"], mode={"enum": ["disabled", "token"]}),
    gcsFaultToleranceOptions=_closed(
        ["redisAddress", "redisPassword"], redisAddress=_STRING, redisPassword=_SECRET_REF
    ),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=_closed(
        [],
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=_COUNT,
        upscalingMode={"enum": ["Default", "Conservative", "Aggressive"]},
        resources={"type": "object"},
        securityContext={"type": "object"},
        volumeMounts={"type": "array"},
    ),
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "items": _WORKERS, "minItems": 1},
)
own_rayservice_problems = _checker(
    _closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "ray.io/v1"},
        kind={"const": "RayService"},
        metadata=_LABELLED,
        spec=_closed(
            ["serveConfigV2", "rayClusterConfig"],
            serveConfigV2=_STRING,
            rayClusterDeletionDelaySeconds=_COUNT,
            excludeHeadPodFromServeSvc={"type": "boolean"},
            upgradeStrategy=_closed(["type"], type={"enum": ["NewCluster", "None"]}),
            serveService=_closed(["spec"], metadata=_LABELLED, spec={"type": "object"}),
            rayClusterConfig=_CLUSTER,
        ),
    )
)
"""Checks the fields of a RayService that this project uses, also without a CRD."""

_SELECTOR = _closed([], matchLabels=_STRINGS, matchExpressions={"type": "array"})
podmonitor_problems = _checker(
    _closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "monitoring.coreos.com/v1"},
        kind={"const": "PodMonitor"},
        metadata=_LABELLED,
        spec=_closed(
            ["selector", "podMetricsEndpoints"],
            selector=_SELECTOR,
            podMetricsEndpoints={
                "type": "array",
                "minItems": 1,
                "items": _closed(
                    ["port"],
                    port=_STRING,
                    path=_STRING,
                    interval=_STRING,
                    authorization=_closed(
                        ["credentials"],
                        type=_STRING,
                        credentials=_closed(["name", "key"], name=_STRING, key=_STRING),
                    ),
                    relabelings={"type": "array"},
                ),
            },
        ),
    )
)


def schema_problems(document: dict[str, Any]) -> list[str]:
    """Check any object of the rendered overlays by the schema of its kind that is always here."""
    if document["kind"] == "RayService":
        return own_rayservice_problems(document)
    if document["kind"] == "PodMonitor":
        return podmonitor_problems(document)
    return core_problems(document)
