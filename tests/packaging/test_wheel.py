"""The wheel holds what a user imports, says what it needs, and works without the repository."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from deployments.engines.vllm_environment import plugin_files
from tests.packaging.conftest import ROOT
from tools.pins import PYTHONS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = {"kernels", "cluster", "router_service", "training", "deployments"}
DEVELOPMENT = re.compile(r"(^|_)(bench\w*|demos?|tests?|conftest|experiments?)(_|\.|$)")


@pytest.fixture(scope="session")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_it_has_the_five_packages(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


def test_no_benchmark_demo_or_test_is_in_it(wheel: zipfile.ZipFile) -> None:
    found = [
        name
        for name in wheel.namelist()
        if any(DEVELOPMENT.search(part) for part in name.split("/"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "name",
    ["cluster/bench/run.py", "demo/generator.py", "kernels/lora/test_bank.py", "a_demo.py"],
)
def test_the_pattern_finds_what_it_is_for(name: str) -> None:
    assert any(DEVELOPMENT.search(part) for part in name.split("/"))


def test_every_file_of_the_packages_is_in_it(wheel: zipfile.ZipFile) -> None:
    have = set(wheel.namelist())
    for package in PACKAGES:
        files = {
            str(path.relative_to(ROOT))
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert files <= have, package


def test_the_source_of_vllms_plugin_is_in_it(wheel: zipfile.ZipFile) -> None:
    """`braid engine install vllm` builds it in another environment."""
    files = plugin_files(ROOT / "plugins" / "vllm")
    assert {f"deployments/engines/plugin/{path}" for path in files} <= set(wheel.namelist())


def test_metadata_is_the_projects(metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == (PROJECT["name"], PROJECT["version"])
    assert SpecifierSet(metadata["Requires-Python"]) == SpecifierSet(PROJECT["requires-python"])
    wanted = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    always = {str(requirement) for requirement in wanted if "extra" not in str(requirement.marker)}
    assert always == {str(Requirement(text)) for text in PROJECT["dependencies"]}
    assert all(requirement.url is None for requirement in wanted)
    assert metadata.get_all("Provides-Extra") == ["dev"]


def test_it_takes_the_pythons_that_the_lock_file_covers() -> None:
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert [minor for minor in range(5, 20) if f"3.{minor}.9" in allowed] == [
        int(python.removeprefix("3.")) for python in PYTHONS
    ]


def braid(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command from the unpacked wheel, far from the repository."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("BRAID_")},
        "PYTHONPATH": str(site),
        "BRAID_STATE_DIR": str(folder / "state"),
        "BRAID_CACHE_DIR": str(folder / "cache"),
        "COLUMNS": "300",
    }
    code = (
        "import deployments, sys\n"
        f"assert deployments.__file__.startswith({str(site)!r}), deployments.__file__\n"
        "from deployments.cli import main\n"
        f"sys.argv = ['braid', *{words!r}]\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_help_works_from_the_wheel(unpacked: Path, tmp_path: Path) -> None:
    result = braid(unpacked, tmp_path, "--help")
    assert result.returncode == 0, result.stderr
    assert "braid up" in result.stdout
    assert not re.search(r"^\W*demo\b", result.stdout, re.MULTILINE)


def test_up_without_the_demo_says_what_to_do(unpacked: Path, tmp_path: Path) -> None:
    result = braid(unpacked, tmp_path, "up")
    assert result.returncode == 1
    assert "the demo is not part of this installation" in result.stderr
    assert "--adapters DIR" in result.stderr
    assert "--no-demo" in result.stderr
    assert "Traceback" not in result.stderr
