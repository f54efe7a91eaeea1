"""Commands run in this process, against a state folder and a server of the test's own."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from deployments.cli.command_line import app
from deployments.local.lifecycle import SUPERVISOR_MODULE
from deployments.local.local_state import StateDir

VARIABLES = ("REDIS_URL", "STATE_DIR", "CACHE_DIR", "SIGNING_KEY", "API_KEY")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateDir:
    """An empty state folder that the commands use; nothing else of the environment counts."""
    for name in VARIABLES:
        monkeypatch.delenv(f"BRAID_{name}", raising=False)
    folder = tmp_path / "state"
    monkeypatch.setenv("BRAID_STATE_DIR", str(folder))
    monkeypatch.setenv("BRAID_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return StateDir.open(folder)


@pytest.fixture
def braid(state: StateDir) -> Callable[..., Any]:
    """``braid(*arguments)``: run a command; the result has exit_code, stdout and stderr."""
    runner = CliRunner()

    def run(*arguments: object, input: str | None = None) -> Any:
        return runner.invoke(app, [str(argument) for argument in arguments], input=input)

    return run


@pytest.fixture
def adapters(tmp_path: Path) -> Callable[..., Path]:
    """``adapters(*names)``: a folder of small PEFT folders."""

    def make(*names: str, config: dict[str, Any] | None = None) -> Path:
        root = tmp_path / "adapters"
        for seed, name in enumerate(names):
            folder = root / name
            folder.mkdir(parents=True)
            content = {
                "peft_type": "LORA",
                "r": 2,
                "lora_alpha": 4,
                "target_modules": ["q_proj"],
                "bias": "none",
            }
            (folder / "adapter_config.json").write_text(json.dumps(content | (config or {})))
            stem = "base_model.model.model.layers.0.self_attn.q_proj"
            tensors = {
                f"{stem}.lora_A.weight": np.full((2, 8), seed, dtype=np.float32),
                f"{stem}.lora_B.weight": np.ones((8, 2), dtype=np.float32),
            }
            save_file(tensors, folder / "adapter_model.safetensors")
        return root

    return make


class FakeServer(ThreadingHTTPServer):
    """Answers from a table and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[tuple[str, str], tuple[int, dict[str, str], bytes]] = {}
        self.first: dict[tuple[str, str], list[tuple[int, dict[str, str], bytes]]] = {}
        self.asked: list[tuple[str, str, str, Any]] = []  # method, path, authorization, body

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(
        self,
        method: str,
        path: str,
        body: Any,
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Set the answer from now on; ``body`` is JSON, or bytes."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[method, path] = (status, headers or {}, content)

    def answer_first(
        self, method: str, path: str, *answers: tuple[int, dict[str, str], Any]
    ) -> None:
        """Set answers that are given once each, in order, before the one of ``answer``."""
        self.first[method, path] = [
            (status, headers, json.dumps(body).encode()) for status, headers, body in answers
        ]


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self._respond(None)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        is_json = self.headers["content-type"] == "application/json"
        self._respond(json.loads(content) if is_json else content)

    def do_PUT(self) -> None:
        self.do_POST()

    def do_DELETE(self) -> None:
        self._respond(None)

    def _respond(self, body: Any) -> None:
        key = self.headers.get("authorization", "")
        self.server.asked.append((self.command, self.path, key, body))
        missing = (404, {}, b'{"error": {"message": "no such path", "code": "not_found"}}')
        asked = (self.command, self.path)
        first = self.server.first.get(asked)
        answer = first.pop(0) if first else self.server.answers.get(asked, missing)
        status, headers, content = answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """Start a server on the loopback interface whose answers the test sets."""
    made = FakeServer()
    thread = Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def supervisor(state: StateDir) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """``supervisor(port=, phase=)``: a process that looks like this state folder's supervisor."""
    made: list[subprocess.Popen[bytes]] = []

    def start(port: int = 1, phase: str = "running") -> subprocess.Popen[bytes]:
        code = "import time; print(flush=True); time.sleep(600)"
        process = subprocess.Popen(
            [sys.executable, "-c", code, SUPERVISOR_MODULE, str(state.root)],
            stdout=subprocess.PIPE,
        )
        made.append(process)
        assert process.stdout is not None
        process.stdout.readline()  # its command line is its own from here on
        status = {"pid": process.pid, "phase": phase, "host": "127.0.0.1", "port": port}
        state.status.write_text(json.dumps(status | {"model": "tiny", "started_at": 1.0}))
        return process

    yield start
    for process in made:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
