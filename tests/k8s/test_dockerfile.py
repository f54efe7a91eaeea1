"""The image: pinned by the lock file, unprivileged, and without secrets."""

import re
import tomllib
from fnmatch import fnmatch

import pytest
import yaml
from k8s_validation import manifests

from tools.pins import read_pins

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


def _stages() -> list[str]:
    """Split the Dockerfile's text by stage."""
    return re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)[1:]


def test_packages_come_from_the_lock_file_only():
    """Every pip is constrained, but for what is installed without dependencies."""
    text = "; ".join(line for line in _arguments("RUN") if "pip install" in line)
    commands = [" ".join(words.split()) for words in re.findall(r"pip install ([^;&]*)", text)]
    assert len(commands) == 5
    for command in commands:
        assert command.startswith("--constraint requirements.lock ") or "--no-deps" in command
        if command.endswith(" ."):
            assert "--no-build-isolation" in command, "setuptools would float"
    named = {word for command in commands for word in command.split() if not word.startswith("-")}
    assert named == {"requirements.lock", "setuptools", "uv", "cpu", '"$torch"', "."}
    pins = read_pins((manifests.ROOT / "requirements.lock").read_text(encoding="utf-8"))
    assert {"setuptools", "uv", "torch"} <= pins.keys()
    assert "==" not in re.sub(r"\^torch==", "", DOCKERFILE), "versions belong to the lock file"


def test_torchs_pin_is_found_without_its_marker():
    (pattern,) = re.findall(r"grep -o '([^']*)'", DOCKERFILE)
    lock = (manifests.ROOT / "requirements.lock").read_text(encoding="utf-8")
    (found,) = (hit[0] for line in lock.splitlines() if (hit := re.match(pattern, line)))
    assert found == f"torch=={read_pins(lock)['torch']}"


def test_no_host_is_named():
    """pip's default index serves, or the one that is given to the build."""
    assert not re.search(r"://|index-url|\b[a-z0-9-]+\.(org|com|io|net)\b", DOCKERFILE)


def test_the_gpu_image_has_a_compiler_and_the_cpu_image_has_none():
    """Triton compiles its launchers at run time, in the last stage's system."""
    last = re.sub(r"\\\n", " ", _stages()[-1])
    (install,) = re.findall(r"RUN (.*apt-get install.*)", last)
    assert install.startswith('if [ "$TORCH" != cpu ]; then')
    assert {"gcc", "libc6-dev"} <= set(install.replace(";", " ").split())
    assert all(re.search(r"^ARG TORCH=cpu$", stage, re.MULTILINE) for stage in _stages())


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
