"""The local Ray: private, on loopback, and alive after its control service was killed.

Each test runs the node in a process of its own: Ray is one for a process.
"""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

CODE = """
    import json, os, signal, sys, time
    from pathlib import Path
    from deployments.local.ray_node import LocalRay
    from deployments.local.local_state import StateDir
    os.umask(0o077)
    state = StateDir.open(Path(sys.argv[1]))
    local = LocalRay(state)
    local.set_environment(os.environ)
    local.start(gpus=float(sys.argv[2]))
    import psutil
    import ray

    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self):
            self.count = 0
        def add(self):
            self.count += 1
            return self.count

    def processes(name):
        return [p for p in psutil.Process().children(recursive=True) if p.name() == name]
"""


def run(folder: Path, code: str, *, gpus: int = 0) -> str:
    left_out = ("RAY_", "CUDA_VISIBLE_DEVICES")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(CODE) + textwrap.dedent(code),
            str(folder),
            str(gpus),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment | {"RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout


def test_actors_outlive_the_control_service(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
        counter = Counter.options(name="kept", lifetime="detached", namespace="n").remote()
        assert ray.get(counter.add.remote()) == 1
        (control,) = processes("gcs_server")
        control.kill()
        control.wait(10)
        assert not local.control_alive
        assert ray.get(counter.add.remote(), timeout=20) == 2
        local.restart_control()
        assert local.control_alive
        assert ray.get(counter.add.remote(), timeout=20) == 3
        assert ray.get(ray.get_actor("kept", namespace="n").add.remote(), timeout=20) == 4
        fresh = Counter.remote()
        assert ray.get(fresh.add.remote(), timeout=60) == 1
        local.stop()
        print("alive")
        """,
    )
    assert said.split() == ["alive"]


def test_nothing_of_it_is_open_to_others(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20)  # beyond what the path of a socket may have
    said = run(
        folder,
        """
        ray.get(Counter.remote().add.remote())
        open_to = set()
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            for one in process.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN:
                    open_to.add(one.laddr.ip.removeprefix("::ffff:"))
        assert open_to == {"127.0.0.1"}, open_to
        assert processes("gcs_server"), "the node has no control service"
        for path in (state.root, state.ray_sessions, local._session_root().parent):
            assert path.stat().st_mode & 0o077 == 0, path
        assert state.ray_token.stat().st_mode & 0o777 == 0o600
        assert list(state.ray_sessions.glob("session_*/sockets/raylet"))
        short = local._temporary.parent
        local.stop()
        assert not short.exists()
        from deployments.local.ray_node import RayLost
        print("private")
        """,
    )
    assert said.split() == ["private"]


def test_what_speaks_http_asks_for_the_token(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
        import urllib.error, urllib.request
        ray.get(Counter.remote().add.remote())
        answers = {}
        for process in psutil.Process().children(recursive=True):
            for one in process.net_connections("tcp"):
                if one.status != psutil.CONN_LISTEN:
                    continue
                try:
                    url = f"http://127.0.0.1:{one.laddr.port}/"
                    answers[url] = urllib.request.urlopen(url, timeout=3).status
                except urllib.error.HTTPError as error:
                    answers[url] = error.code
                except Exception:
                    continue  # not HTTP
        local.stop()
        assert answers, "nothing speaks HTTP"
        print(*set(answers.values()))
        """,
    )
    assert said.split() == ["401"]


def test_actors_share_the_gpus_out_and_others_see_none(tmp_path: Path) -> None:
    """It needs no GPU: Ray takes the number that it is given."""
    said = run(
        tmp_path,
        """
        from deployments.process import hide_gpus

        @ray.remote(num_cpus=0)
        class Shown:
            def __init__(self, gpus):
                hide_gpus(os.environ, gpus)
            def devices(self):
                return os.environ.get("CUDA_VISIBLE_DEVICES")

        first, second = (Shown.options(num_gpus=1).remote(1) for _ in range(2))
        without = Shown.remote(0)
        print(json.dumps(ray.get([shown.devices.remote() for shown in (first, second, without)])))
        local.stop()
        """,
        gpus=2,
    )
    *shared, without = json.loads(said.splitlines()[-1])
    assert sorted(shared) == ["0", "1"]
    assert without == ""
