"""The HTTP load generator against a server of the test's own."""

import importlib.util
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "http_load.py"


@pytest.fixture(scope="module")
def http_load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("http_load", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Server(ThreadingHTTPServer):
    """Streams one event per token."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.fault: str | None = None


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        self.server.keys.add(self.headers["authorization"])
        if self.server.fault == "status":
            self.send_error(404)
            return
        count = body["max_tokens"] - (self.server.fault == "short")
        events: list[dict[str, Any]] = [{"choices": [{"text": " a"}]} for _ in range(count)]
        if self.server.fault == "event":
            events[1] = {"error": {"message": "replica lost"}}
        events.append({"choices": [], "usage": {"completion_tokens": count}})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for event in events:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def arguments(server: Server, *more: str) -> list[str]:
    url = f"http://127.0.0.1:{server.server_port}"
    sizes = ["--prompt-tokens", "5", "--output-tokens", "4", "--rounds", "2"]
    return ["--url", url, "--key", "k", *sizes, "--json", *more]


def test_three_loads_take_turns(http_load: ModuleType, server: Server, capsys: Any) -> None:
    http_load.main(
        arguments(
            server, "--base", "b", "--models", "x,y,z", "--mixture", "2", "--concurrency", "1,3"
        )
    )
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["load"], r["concurrency"]) for r in results] == [
        (name, count) for count in (1, 3) for name in ("base", "3 adapters", "mixtures of 2")
    ]
    for result in results:
        assert result["rounds"] == 2
        assert result["tokens_per_event"] == 1.0
        low, high = result["output_tokens_per_s_low"], result["output_tokens_per_s_high"]
        assert 0 < low <= result["output_tokens_per_s"] <= high
        assert result["ttft_ms_p50"] <= result["ttft_ms_p99"]
        assert result["inter_token_ms_p50"] <= result["inter_token_ms_p99"]

    assert server.keys == {"Bearer k"}
    assert len(server.bodies) == 3 * 3 * (1 + 3)
    assert {len(body["prompt"]) for body in server.bodies} == {5}
    assert len({tuple(body["prompt"]) for body in server.bodies[9:]}) == 27
    alone, together = server.bodies[:9], server.bodies[9:]
    # One request at once: the rounds go on through the list.
    assert [body["model"] for body in alone if "adapters" not in body] == list("bxbybz")
    blends = [body["adapters"] for body in together if "adapters" in body]
    assert len(blends) == 9
    assert all(len(blend) == 2 for blend in blends)
    assert len({json.dumps(blend) for blend in blends}) == 3
    assert all(body["model"] == "b" for body in together if "adapters" in body)


@pytest.mark.parametrize(
    ("fault", "message"),
    [("short", "3 tokens, expected 4"), ("status", "404"), ("event", "replica lost")],
)
def test_a_wrong_answer_ends_the_run(
    http_load: ModuleType, server: Server, capsys: Any, fault: str, message: str
) -> None:
    server.fault = fault
    with pytest.raises(SystemExit, match=message):
        http_load.main(arguments(server, "--base", "b", "--concurrency", "2"))
    assert "tokens_per_s" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--base or --models is needed"),
        (["--base", "b", "--models", "x", "--mixture", "2"], "--mixture 2 needs"),
        (["--base", "b", "--url", "http://example.org"], "only a server on this machine"),
    ],
)
def test_mistakes_are_named(
    http_load: ModuleType, capsys: Any, words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        http_load.main(words)
    assert message in capsys.readouterr().err


def test_a_star_names_sixteen_adapters(http_load: ModuleType) -> None:
    names = http_load._expand("random-*")
    assert (len(names), names[0], names[15]) == (16, "random-00", "random-15")


def test_percentiles_are_values_that_were_seen(http_load: ModuleType) -> None:
    values = [float(n) for n in range(1, 101)]
    assert http_load.percentile(values, 0.99) == 99.0
    assert http_load.percentile(values, 1.0) == 100.0
    assert http_load.percentile([7.0], 0.99) == 7.0


def test_figures_of_a_load(http_load: ModuleType) -> None:
    timings = [http_load.Timing(0.1, (0.01, 0.03), 4, 3), http_load.Timing(0.3, (0.02,), 4, 2)]
    result = http_load.summarise("base", 2, [10.0, 20.0, 90.0], timings)
    assert (result.output_tokens_per_s, result.output_tokens_per_s_high) == (20.0, 90.0)
    assert (result.ttft_ms_p50, result.ttft_ms_p99) == (200.0, 300.0)
    assert (result.inter_token_ms_p50, result.inter_token_ms_p99) == (20.0, 30.0)
    assert result.tokens_per_event == 1.6
