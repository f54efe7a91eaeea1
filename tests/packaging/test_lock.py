"""The lock file pins all that the project needs, wherever it is installed, and names no host."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.conftest import ROOT
from tools.lock import Resolver, check
from tools.pins import LOCK, LOCKS, PROJECT_LOCK, PYTHONS, LockFile, read_pins

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SYSTEMS = (
    ("linux", "Linux", "x86_64"),
    ("linux", "Linux", "aarch64"),
    ("darwin", "Darwin", "arm64"),
)
TEXT = LOCK.read_text(encoding="utf-8")
PINS = [Requirement(line) for line in TEXT.splitlines() if not line.startswith("#")]
CLOSED_PORT = "http://127.0.0.1:9"


def environments() -> Iterator[dict[str, str]]:
    """Yield each Python on each platform, as markers see it."""
    for python in PYTHONS:
        for system, name, machine in SYSTEMS:
            yield {
                "implementation_name": "cpython",
                "os_name": "posix",
                "platform_machine": machine,
                "platform_python_implementation": "CPython",
                "platform_system": name,
                "python_full_version": f"{python}.4",
                "python_version": python,
                "sys_platform": system,
            }


def name_of(environment: dict[str, str]) -> str:
    fields = ("python_version", "platform_system", "platform_machine")
    return "-".join(environment[field] for field in fields)


def needed(environment: dict[str, str]) -> Iterator[Requirement]:
    """List the needs of the project and its tools there, by the metadata of the installed
    packages."""
    waiting = [Requirement(text) for text in PROJECT["dependencies"]]
    waiting += [Requirement(text) for text in PROJECT["optional-dependencies"]["dev"]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        yield requirement
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            texts = importlib.metadata.requires(requirement.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # another platform's
        for child in map(Requirement, texts):
            extras = {"", *requirement.extras}
            if child.marker is None or any(
                child.marker.evaluate({**environment, "extra": extra}) for extra in extras
            ):
                waiting.append(child)


@pytest.mark.parametrize("environment", list(environments()), ids=name_of)
def test_every_dependency_is_pinned_to_a_version_that_it_allows(
    environment: dict[str, str],
) -> None:
    """A constraint binds what it names: a dependency that it does not name would float."""
    pins = {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin in PINS
        if pin.marker is None or pin.marker.evaluate({**environment, "extra": ""})
    }
    wrong = [
        str(requirement)
        for requirement in needed(environment)
        if (requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""}))
        and not requirement.specifier.contains(
            pins.get(canonicalize_name(requirement.name), "0"), prereleases=True
        )
    ]
    assert wrong == []


def test_it_is_constraints_that_pip_takes() -> None:
    """Exact versions without extras, options or addresses; one line for each distribution."""
    for pin in PINS:
        assert [specifier.operator for specifier in pin.specifier] == ["=="], pin.name
        assert not pin.extras
        assert pin.url is None
    assert len({pin.name for pin in PINS}) == len(PINS)
    assert not re.search(r"https?:|--|@", TEXT.replace("pip install --constraint", ""))
    assert read_pins(TEXT).keys() == {pin.name for pin in PINS}


def test_one_triton_is_tested_and_shipped() -> None:
    """Torch's own wheels ask for it on Linux; there it is a development dependency too."""
    (pin,) = (pin for pin in PINS if pin.name == "triton")
    (wanted,) = (
        requirement
        for requirement in map(Requirement, PROJECT["optional-dependencies"]["dev"])
        if requirement.name == "triton"
    )
    assert pin.specifier == wanted.specifier
    if sys.platform == "linux":
        assert importlib.metadata.version("triton") in pin.specifier


def test_cuda_libraries_are_pinned_on_linux_alone() -> None:
    libraries = [pin for pin in PINS if pin.name.startswith(("nvidia-", "cuda-", "triton"))]
    assert len(libraries) > 10
    for pin in libraries:
        assert pin.marker is not None
        for environment in environments():
            wanted = environment["sys_platform"] == "linux"
            assert pin.marker.evaluate({**environment, "extra": ""}) is wanted


@pytest.mark.parametrize("file", LOCKS[1:], ids=lambda file: file.path.name)
def test_an_engines_lock_pins_it_and_its_torch(file: LockFile) -> None:
    pins = read_pins(file.path.read_text(encoding="utf-8"))
    assert file.requirement is not None
    name, _, version = file.requirement.partition("==")
    assert pins[name] == version
    assert pins["torch"] == read_pins(TEXT)["torch"]
    assert file.left_out is None or not any(map(file.left_out.fullmatch, pins))


@pytest.mark.parametrize("line", ["torch", "torch>=2", "-r other.txt", "ray[serve]==2.60.0"])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match="expected NAME==VERSION"):
        read_pins(f"# comment\n\nnumpy==2.4.6\n{line}\n")


def test_markers_and_comments_are_no_versions() -> None:
    text = "# a\ntriton==3.7.1 ; sys_platform == 'linux'\n  # b\nrich==15.0.0\n"
    assert read_pins(text) == {"triton": "3.7.1", "rich": "15.0.0"}


@pytest.mark.slow
def test_without_an_index_the_check_is_skipped_and_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, CLOSED_PORT)
    assert check() == 0
    assert capsys.readouterr().out == "lock file: 1 check skipped: no index reachable\n"


def test_a_check_that_takes_too_long_is_skipped_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check(bound_s=0.0) == 0
    assert capsys.readouterr().out.startswith("lock file: 1 check skipped: no answer within")


@pytest.fixture(scope="module")
def index() -> None:
    if not Resolver(20.0).finds_an_index():
        pytest.skip("no index reachable: the lock file was not resolved")


@pytest.mark.slow
@pytest.mark.usefixtures("index")
def test_a_pin_that_does_not_resolve_is_a_fault_whatever_pips_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    wrong = tmp_path / LOCK.name
    wrong.write_text(TEXT.replace("triton==3.7.1", "triton==3.9.0"), encoding="utf-8")
    assert check([replace(PROJECT_LOCK, path=wrong)], bound_s=240.0) == 1
    said = capsys.readouterr().err
    assert "-triton==3.9.0" in said
    assert "+triton==3.7.1" in said
    assert "make lock" in said


def test_make_refuses_another_python_with_a_sentence(tmp_path: Path) -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", LOCK.name):
        shutil.copy(ROOT / name, tmp_path)
    other = tmp_path / "python"
    other.write_text(
        f"#!{sys.executable}\nimport sys\nsys.version_info = (3, 14, 0)\n"
        "if sys.argv[1] == '--version':\n    print('Python 3.14.0')\n"
        "else:\n    assert sys.argv[1] == '-c'\n    exec(sys.argv[2])\n"
    )
    other.chmod(0o700)
    done = subprocess.run(
        [make, "up", f"PYTHON={other}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"Python {', '.join(PYTHONS[:-1])} or {PYTHONS[-1]} is needed" in done.stderr
    assert "is Python 3.14.0" in done.stderr
    assert not (tmp_path / ".venv").exists()
