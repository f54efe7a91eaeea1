"""Each request leaves one line, whatever becomes of it, and the line has no text of anybody."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import structlog
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.requests import ClientDisconnect

from cluster.clock import SystemClock
from cluster.domain.request import Outcome
from cluster.errors import EngineError, Overloaded, PermissionDenied, RequestError
from deployments.front.http import problem
from deployments.front.http.request_id import RequestIdMiddleware
from deployments.front.telemetry.request_log import (
    UNNAMED,
    RequestRecord,
    current_record,
    outcome_of_status,
)
from deployments.log_setup import describe_exception
from tests.support.manual_clock import ManualClock

SECRET = "words that nobody may read"


def build() -> FastAPI:
    app = FastAPI()
    problem.install(app)

    @app.get("/good")
    async def good(request: Request) -> dict[str, str]:
        return {"id": request.state.request_id}

    @app.post("/ask")
    async def ask(model: str, param: str) -> Response:
        current_record().asks("chat", model, stream=True)
        raise RequestError(f"{param}: {SECRET}", param=param)

    @app.get("/fails/{kind}")
    async def fails(kind: str) -> Response:
        raise {
            "overloaded": Overloaded("full"),
            "engine": EngineError("no"),
            "forbidden": PermissionDenied("no"),
            "gone": ClientDisconnect(),
            "unknown": KeyError(SECRET),
        }[kind]

    @app.get("/stream")
    async def stream() -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            structlog.get_logger().info("inside")
            raise ValueError(SECRET)

        return StreamingResponse(parts())

    @app.get("/ready")
    async def ready() -> Response:
        return Response(status_code=503)

    app.add_middleware(RequestIdMiddleware, clock=SystemClock())
    return app


class Asked:
    """An answer and the lines that it left."""

    def __init__(self, answer: httpx2.Response | None, lines: list[dict[str, Any]]) -> None:
        self.answer = answer
        self.lines = lines

    @property
    def line(self) -> dict[str, Any]:
        found = [line for line in self.lines if line["event"] == "request"]
        assert len(found) == 1
        return found[0]


async def ask(method: str, path: str, **fields: Any) -> Asked:
    transport = httpx2.ASGITransport(build())
    async with httpx2.AsyncClient(transport=transport, base_url="http://front") as client:
        processors = [structlog.contextvars.merge_contextvars]
        with structlog.testing.capture_logs(processors=processors) as lines:
            answer = await client.request(method, path, **fields)
    return Asked(answer, [dict(line) for line in lines])


async def test_a_good_request() -> None:
    asked = await ask("GET", "/good")
    assert asked.answer is not None
    id = asked.answer.headers["x-request-id"]
    assert asked.answer.json() == {"id": id}
    assert asked.line["request"] == id
    assert (asked.line["method"], asked.line["path"]) == ("GET", "/good")
    assert (asked.line["status"], asked.line["outcome"]) == (200, "completed")
    assert asked.line["total_ms"] >= 0


@pytest.mark.parametrize(
    ("path", "status", "outcome", "code"),
    [
        ("/fails/overloaded", 503, "rejected_capacity", "overloaded"),
        ("/fails/engine", 500, "failed_engine", "engine_error"),
        ("/fails/forbidden", 403, "rejected_auth", "permission_denied"),
        ("/fails/gone", None, "cancelled", "client_closed"),
        ("/nothing", 404, "rejected_invalid", "not_found"),
        ("/ask", 405, "rejected_invalid", "method_not_allowed"),
    ],
)
async def test_refused_and_failed_ones(
    path: str, status: int | None, outcome: str, code: str
) -> None:
    if status is None:
        with structlog.testing.capture_logs() as lines:
            await answer_nobody(path)
        asked = Asked(None, [dict(line) for line in lines])
    else:
        asked = await ask("GET", path)
        assert asked.answer is not None
        assert asked.answer.headers["x-request-id"] == asked.line["request"]
    assert asked.line.get("status") == status
    assert (asked.line["outcome"], asked.line["code"]) == (outcome, code)


async def answer_nobody(path: str) -> None:
    """Run the application for a client whose answer goes nowhere."""

    async def receive() -> dict[str, str]:
        await asyncio.sleep(60)  # stays, and says nothing
        return {"type": "http.disconnect"}

    async def send(_: object) -> None:
        return

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
    }
    await build()(scope, receive, send)  # type: ignore[arg-type]


async def test_an_error_that_nobody_foresaw_is_found_by_the_id_of_its_answer() -> None:
    asked = await ask("GET", "/fails/unknown")
    assert asked.answer is not None
    assert asked.answer.status_code == 500
    id = asked.answer.headers["x-request-id"]
    assert id in asked.answer.json()["error"]["message"]
    (unexpected,) = [line for line in asked.lines if line["event"] == "front.unexpected_error"]
    assert unexpected["request"] == id
    assert asked.line["outcome"] == "failed_engine"
    said = describe_exception(unexpected["exc_info"], with_messages=False)
    assert "in fails" in said
    assert said.endswith("KeyError")
    assert SECRET not in said


async def test_an_answer_that_breaks_off_has_its_line() -> None:
    processors = [structlog.contextvars.merge_contextvars]
    with structlog.testing.capture_logs(processors=processors) as lines:
        await answer_nobody("/stream")
    asked = Asked(None, [dict(line) for line in lines])
    assert asked.line["outcome"] == "failed_engine"
    assert asked.line["status"] == 200
    inside = next(line for line in asked.lines if line["event"] == "inside")
    assert inside["request"] == asked.line["request"]


async def test_probes_leave_no_line_unless_they_bring_an_id() -> None:
    assert (await ask("GET", "/ready")).lines == []
    asked = await ask("GET", "/ready", headers={"x-request-id": "mine"})
    assert asked.line["request"] == "mine"


@pytest.mark.parametrize("id", ["a b", "x" * 129, 'quote"', "new\u00e9", ""])
async def test_an_id_that_is_not_well_formed_is_replaced(id: str) -> None:
    asked = await ask("GET", "/good", headers={"x-request-id": id.encode("latin-1")})
    assert asked.line["request"] != id
    assert len(asked.line["request"]) == 32


@pytest.mark.parametrize(
    ("model", "param", "said"),
    [
        ("auto:dlp", "top_p", ("auto:dlp", "top_p")),
        ("HuggingFaceTB/Smol-1.7:sql", "messages[0].content", None),
        (SECRET, SECRET, (UNNAMED, UNNAMED)),
        ("sk-1\n{}", "Sk-key", (UNNAMED, UNNAMED)),
        ("m" * 129, "p" * 300, (UNNAMED, UNNAMED)),
    ],
)
async def test_a_line_repeats_names_and_no_text(
    model: str, param: str, said: tuple[str, str] | None
) -> None:
    asked = await ask("POST", "/ask", params={"model": model, "param": param})
    assert (asked.line["model"], asked.line["param"]) == (said or (model, param))
    assert asked.line["path"] == "/ask"
    assert SECRET not in json.dumps(asked.lines, default=str)


def test_the_first_reason_stands_and_a_line_is_written_once() -> None:
    clock = ManualClock()
    record = RequestRecord(id="r", started=clock.monotonic())
    record.fail(Overloaded("full"), Outcome.REJECTED_CAPACITY)
    record.fail(ClientDisconnect(), Outcome.CANCELLED)
    with structlog.testing.capture_logs() as lines:
        record.write(clock.monotonic())
        record.write(clock.monotonic())
    (line,) = lines
    assert (line["code"], line["outcome"]) == ("overloaded", "rejected_capacity")


def test_every_status_is_an_outcome() -> None:
    for status in range(100, 600):
        assert isinstance(outcome_of_status(status), Outcome)
    assert outcome_of_status(None) is Outcome.CANCELLED


def test_no_record_is_written_for_what_is_no_request() -> None:
    with structlog.testing.capture_logs() as lines:
        current_record().write(1.0)
    assert lines == []
