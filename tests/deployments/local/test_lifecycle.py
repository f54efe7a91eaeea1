"""Checks that a taken port is refused before anything starts, and a failed start leaves nothing."""

import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.config import AppConfig
from cluster.errors import ConfigError
from deployments.local.lifecycle import check_port_free, find_running, start
from deployments.local.local_state import StateDir
from deployments.local.phases import STOPPING

HOST = "127.0.0.1"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0)) as server:
        yield server


def test_a_taken_port_is_refused_with_its_process(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with pytest.raises(ConfigError, match=rf"port {port} on {HOST} is taken by process \d+"):
        check_port_free(HOST, port)
    listener.close()
    check_port_free(HOST, port)


def test_where_connections_may_not_be_listed(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS for everybody but root."""

    def denied(kind: str) -> list[object]:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", denied)
    port = listener.getsockname()[1]
    with pytest.raises(ConfigError, match=rf"port {port} on {HOST} cannot be used.*--port"):
        check_port_free(HOST, port)
    listener.close()
    check_port_free(HOST, port)


@pytest.mark.ray
def test_an_interrupted_start_says_that_it_stops(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path)
    said: list[str] = []

    def on_phase(phase: str) -> None:
        said.append(phase)
        if len(said) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(state, AppConfig(), on_phase, replicas=lambda: 1)
    assert said[1:] == [STOPPING]
    assert find_running(state) is None
