"""Reads manifests strictly and renders overlays."""

import subprocess
from collections.abc import Hashable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
K8S = ROOT / "k8s"
FILES = sorted(path for path in K8S.rglob("*") if path.suffix in {".yaml", ".yml"})
OVERLAYS = sorted(path.parent for path in K8S.glob("overlays/*/kustomization.yaml"))


class _Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """Safe YAML that refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"written twice: {sorted(twice)}", node.start_mark
            )
        return super().construct_mapping(node, deep)


def parse(text: str) -> list[Any]:
    """Return the documents of a YAML text; a repeated key is an error."""
    return [doc for doc in yaml.load_all(text, _Loader) if doc is not None]


@cache
def render(kubectl: str, folder: Path) -> list[dict[str, Any]]:
    """Return the objects that kustomize makes of ``folder``; who changes them takes a copy."""
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        raise AssertionError(f"kubectl kustomize {folder}: {done.stderr}")
    return parse(done.stdout)


def only(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the one object of a kind."""
    found = [doc for doc in documents if doc["kind"] == kind]
    assert len(found) == 1, f"{len(found)} objects of kind {kind}"
    return found[0]


def groups(rayservice: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the head group as ``head``, then each worker group under its own name."""
    cluster = rayservice["spec"]["rayClusterConfig"]
    yield "head", cluster["headGroupSpec"]
    for group in cluster.get("workerGroupSpecs", []):
        yield group["groupName"], group


def pod_templates(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object that makes pods as (where, pod template)."""
    for doc in documents:
        name = f"{doc['kind']}/{doc['metadata']['name']}"
        if doc["kind"] == "RayService":
            for group, spec in groups(doc):
                yield f"{name}/{group}", spec["template"]
        elif doc["kind"] in {"StatefulSet", "Deployment", "DaemonSet", "Job"}:
            yield name, doc["spec"]["template"]


def environment(container: dict[str, Any]) -> dict[str, str]:
    """Return a container's literal environment."""
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
