"""The embedded server: a real one, private, and back with its data."""

from pathlib import Path

import pytest
import redis

from deployments.local.local_state import StateDir
from deployments.local.valkey import EmbeddedValkey

pytestmark = pytest.mark.redis


def test_a_restart_keeps_port_password_and_data(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    server.start()
    try:
        first = server.pid
        with redis.Redis.from_url(server.url) as client:
            client.set("key", "value")
            client.execute_command("BGREWRITEAOF")
            client.shutdown(save=False)
        server.start()
        assert server.pid != first
        with redis.Redis.from_url(server.url) as client:
            assert client.get("key") == b"value"
    finally:
        server.stop()
    assert not server.running


def test_without_the_password_nothing_is_told(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    server.start()
    try:
        port = int(server.url.rsplit(":", 1)[1].split("/")[0])
        with (
            redis.Redis(port=port) as stranger,
            pytest.raises(redis.exceptions.AuthenticationError),
        ):
            stranger.get("key")
        assert (tmp_path / "valkey.conf").stat().st_mode & 0o077 == 0
    finally:
        server.stop()


def test_the_state_folder_is_private(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path / "state")
    assert state.root.stat().st_mode & 0o077 == 0
    key = state.signing_key()
    assert len(key) == 64
    assert state.signing_key() == key
    assert (state.root / "signing.key").stat().st_mode & 0o777 == 0o600
