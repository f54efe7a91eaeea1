"""The image: pinned by the lock file, unprivileged, and without secrets."""

import importlib.metadata
import re
import tomllib
from fnmatch import fnmatch

import pytest
import yaml
from k8s_validation import manifests
from packaging.requirements import Requirement

DOCKERFILE = (manifests.ROOT / "Dockerfile").read_text(encoding="utf-8")
IGNORED = (manifests.ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
INSTRUCTIONS = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M)).splitlines()


def _arguments(name: str) -> list[str]:
    return [line.split(None, 1)[1] for line in INSTRUCTIONS if line.startswith(f"{name} ")]


def _copied() -> set[str]:
    return {
        source
        for line in _arguments("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }


def test_python_is_the_projects_and_no_stage_uses_latest():
    for image in _arguments("FROM"):
        assert image.split()[0] == "python:3.11-slim"


def test_packages_come_from_the_lock_file_only():
    installs = [line for line in _arguments("RUN") if "pip install" in line]
    text = " ".join(installs)
    assert "pip install --constraint requirements.lock ." in text
    assert "pip install --no-deps --force-reinstall ." in text
    assert not re.search(r"pip install (?!-|\.)", text), "a package that the lock file does not pin"
    assert "==" not in re.sub(r"\^torch==", "", DOCKERFILE), "versions belong to the lock file"


def test_lock_file_pins_whatever_the_project_needs():
    """A constraint binds what it names: a dependency that it does not name would float."""
    lock = (manifests.ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pinned = {
        requirement.name.lower().replace("_", "-"): requirement
        for requirement in map(Requirement, lock)
    }
    assert all(str(requirement.specifier).startswith("==") for requirement in pinned.values())
    waiting, needed = [Requirement("braid-serve")], set()
    while waiting:
        requirement = waiting.pop()
        key = (requirement.name.lower().replace("_", "-"), frozenset(requirement.extras))
        if key in needed:
            continue
        needed.add(key)
        for text in importlib.metadata.requires(requirement.name) or ():
            child = Requirement(text)
            extras = {"", *requirement.extras}
            if child.marker is None or any(child.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(child)
    missing = {name for name, _ in needed} - pinned.keys() - {"braid-serve"}
    assert missing == set()


def test_it_runs_as_the_pods_user(rayservice):
    assert _arguments("USER") == ["1000:1000"]
    for name, group in manifests.groups(rayservice):
        context = group["template"]["spec"]["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == (1000, 1000), name
        mounts = group["template"]["spec"]["containers"][0]["volumeMounts"]
        assert {"/tmp", "/home/braid"} <= {entry["mountPath"] for entry in mounts}, name


def test_every_installed_package_is_copied():
    project = tomllib.loads((manifests.ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {pattern.removesuffix("*") for pattern in patterns}
    assert all((manifests.ROOT / name / "__init__.py").is_file() for name in packages)
    assert {f"{name}/" for name in packages} <= _copied()


def test_the_context_holds_what_is_copied_and_nothing_else():
    assert IGNORED[1] == "*"
    admitted = {line[1:] for line in IGNORED if line.startswith("!")}
    assert admitted == _copied()


@pytest.mark.parametrize("name", ["k8s/secret.env", "deployments/x.env", "cluster/a.log"])
def test_secrets_and_logs_stay_out_of_the_context(name):
    patterns = [line.removeprefix("**/") for line in IGNORED if line.startswith("**/")]
    assert any(fnmatch(name.rsplit("/", 1)[1], pattern) for pattern in patterns)


def test_no_secret_is_built_in():
    assert not re.search(r"password|secret|token|signing|api_?key", DOCKERFILE, re.IGNORECASE)


def test_documented_tags_are_those_of_the_overlays():
    built = set(re.findall(r"-t (braid-serve:\S+)", DOCKERFILE))
    used = set()
    for path in [manifests.K8S / "base", *manifests.OVERLAYS]:
        content = yaml.safe_load((path / "kustomization.yaml").read_text(encoding="utf-8"))
        used |= {f"{entry['name']}:{entry['newTag']}" for entry in content.get("images", [])}
    assert built == used
