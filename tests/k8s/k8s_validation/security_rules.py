"""Checks what every pod and object of the overlays must satisfy."""

import re
from collections.abc import Iterator
from typing import Any

from k8s_validation.manifests import pod_templates

_SECRET_NAME = re.compile(r"password|secret|token|signing|api_?key|redis_url", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"\w+://[^\s/@]*:[^\s/@$]+@")


def security_problems(documents: list[dict[str, Any]]) -> list[str]:
    """Return every pod setting and every literal that must not be there."""
    problems = [
        problem
        for where, template in pod_templates(documents)
        for problem in _pod(where, template["spec"])
    ]
    for document in documents:
        where = f"{document['kind']}/{document['metadata']['name']}"
        if document["kind"] == "Secret":
            problems.append(f"{where}: secrets are not kept in the repository")
        problems += [f"{where}: a password inside {text!r}" for text in _url_passwords(document)]
    return problems


def _pod(where: str, spec: dict[str, Any]) -> Iterator[str]:
    context = spec.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield f"{where}: runAsNonRoot with a user id is missing"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{where}: seccompProfile RuntimeDefault is missing"
    if spec.get("hostNetwork") or spec.get("hostPID") or spec.get("hostIPC"):
        yield f"{where}: shares a namespace with its host"
    if any("hostPath" in volume for volume in spec.get("volumes", [])):
        yield f"{where}: mounts a folder of its host"
    if "automountServiceAccountToken" not in spec:
        yield f"{where}: automountServiceAccountToken is not decided"
    if spec.get("terminationGracePeriodSeconds") is None:
        yield f"{where}: terminationGracePeriodSeconds is missing"
    mounted = {volume["name"] for volume in spec.get("volumes", [])}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        name = f"{where}/{container['name']}"
        yield from _container(name, container)
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in mounted and not where.startswith("StatefulSet"):
                yield f"{name}: mounts {mount['name']}, which is no volume of the pod"


def _container(name: str, container: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield f"{name}: allowPrivilegeEscalation is not false"
    if context.get("capabilities", {}).get("drop") != ["ALL"]:
        yield f"{name}: capabilities are not dropped"
    if context.get("readOnlyRootFilesystem") is not True:
        yield f"{name}: the root file system is writable"
    _, _, tag = container["image"].rpartition("/")[2].partition(":")
    if tag in ("", "latest"):
        yield f"{name}: image {container['image']!r} is not pinned"
    resources = container.get("resources", {})
    for resource in ("cpu", "memory"):
        for bound in ("requests", "limits"):
            if resource not in resources.get(bound, {}):
                yield f"{name}: no {bound} for {resource}"
    if resources.get("requests", {}).get("memory") != resources.get("limits", {}).get("memory"):
        yield f"{name}: memory request and limit differ"
    for probe in ("readinessProbe", "livenessProbe"):
        if probe not in container:
            yield f"{name}: no {probe}"
    for entry in container.get("env", []):
        if "value" in entry and _SECRET_NAME.search(entry["name"]):
            yield f"{name}: {entry['name']} is a literal in env"


def _url_passwords(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for value in node.values():
            yield from _url_passwords(value)
    elif isinstance(node, list):
        for value in node:
            yield from _url_passwords(value)
    elif isinstance(node, str) and _URL_PASSWORD.search(node):
        yield node
