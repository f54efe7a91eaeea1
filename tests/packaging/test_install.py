"""The installation's reading of pip's words and of this machine."""

from pathlib import Path

import pytest

from cluster.nvidia import has_nvidia_device
from tools.install import InstallFailed, check_machine, download, pip_command
from tools.pins import LOCK


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (527.1 MB)\n",
            ("torch-2.13.0", 527.1),
        ),
        ("Downloading https://x/y/ray-2.60.0-cp311-cp311-a.whl (70.5 MB)", ("ray-2.60.0", 70.5)),
        ("  Using cached six-1.17.0-py2.py3-none-any.whl (11 kB)", ("six-1.17.0", 0.011)),
        ("  Downloading opencensus-0.11.4.tar.gz (1.5 GB)", ("opencensus-0.11.4", 1500.0)),
        ("  Downloading torch-2.13.0-cp311-cp311-a.whl.metadata (26 kB)", None),
        ("Collecting torch==2.13.0", None),
        ("Installing collected packages: torch", None),
        ("", None),
    ],
)
def test_a_download_is_named_with_its_size(line: str, found: tuple[str, float] | None) -> None:
    seen = download(line)
    if found is None:
        assert seen is None
    else:
        assert seen is not None
        assert seen[0] == found[0]
        assert seen[1] == pytest.approx(found[1])


@pytest.mark.parametrize(
    ("device", "found"), [("nvidia0", True), ("nvidiactl", True), ("null", False)]
)
def test_a_device_file_tells_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, found: bool
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / device).touch()
    assert has_nvidia_device(tmp_path) is found


def test_the_drivers_command_tells_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "nvidia-smi").touch(mode=0o700)
    assert has_nvidia_device(tmp_path / "none")


@pytest.mark.parametrize(
    ("system", "machine"), [("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")]
)
def test_covered_machines_pass(system: str, machine: str) -> None:
    check_machine(system, machine)


@pytest.mark.parametrize(
    ("system", "machine"), [("Windows", "AMD64"), ("Darwin", "x86_64"), ("Linux", "riscv64")]
)
def test_other_machines_are_refused_by_name(system: str, machine: str) -> None:
    with pytest.raises(InstallFailed, match=f"{system} on {machine} is not supported"):
        check_machine(system, machine)


def test_every_installation_is_under_the_lock_files_constraints() -> None:
    command = pip_command("install", "--no-deps", "uv")
    assert command[1:4] == ["-m", "pip", "install"]
    assert command[command.index("--constraint") + 1] == str(LOCK)
    assert command[-2:] == ["--no-deps", "uv"]
