"""Words errors as OpenAI's clients expect them: every failed answer has this body."""

from collections.abc import Mapping

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from cluster.domain.request import Outcome
from cluster.errors import (
    AdapterError,
    AuthenticationFailed,
    BraidError,
    DeadlineExceeded,
    Overloaded,
    PermissionDenied,
    PolicyError,
    QuotaExceeded,
    ReplicaLost,
    RequestError,
    RouterError,
    Starting,
    TooManyFailedKeys,
)
from cluster.field_problems import field_path
from deployments.front.http.limits import MAX_ERROR_BYTES, MAX_FAULTS, MAX_PARAM_CHARS
from deployments.front.telemetry.request_log import SERVER_ERROR, current_record

TYPE_BY_STATUS = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    403: "permission_denied_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    414: "invalid_request_error",
    408: "timeout_error",
    431: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
MAX_FAULT_CHARS = 400
CODE_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}


class RefusedByQuota(QuotaExceeded):
    """Refuses a request, with headers that tell when to come back."""

    def __init__(self, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.headers = dict(headers)


def error_body(
    status: int, message: str, code: str, param: str | None = None
) -> dict[str, dict[str, str | None]]:
    """Return the body of an error answer."""
    kind = TYPE_BY_STATUS.get(status, "server_error")
    return {
        "error": {
            "message": _cut(message),
            "type": kind,
            "param": None if param is None else _cut(param[:MAX_PARAM_CHARS]),
            "code": code,
        }
    }


def _cut(text: str) -> str:
    """Cut a text to at most ``MAX_ERROR_BYTES`` as JSON, whatever is quoted in it."""
    kept = text[:MAX_ERROR_BYTES].encode(errors="replace").decode()
    while len(orjson.dumps(kept)) > MAX_ERROR_BYTES:
        kept = kept[: len(kept) * 3 // 4]
    return kept if len(kept) == len(text) else f"{kept}..."


def body_of(error: BraidError) -> dict[str, dict[str, str | None]]:
    """Return the body for one of our own errors; also the data of an SSE error event."""
    message = error.message
    if error.param is not None and error.param not in message:
        message = f"{error.param}: {message}"
    return error_body(error.status, message, error.code, error.param)


def headers_of(error: BraidError) -> dict[str, str]:
    """Return headers that tell clients whether and when to try again."""
    headers = {"x-should-retry": "true" if error.retryable else "false"}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.retryable:
        headers["retry-after"] = str(error.retry_after_s)
    if isinstance(error, TooManyFailedKeys):
        headers |= {"retry-after": "60", "connection": "close"}
    if isinstance(error, RefusedByQuota):
        headers.update(error.headers)
    return headers


def outcome_of(error: BraidError) -> Outcome:
    """Return the outcome that an error is counted as."""
    if isinstance(error, AuthenticationFailed | PermissionDenied | TooManyFailedKeys):
        return Outcome.REJECTED_AUTH
    if isinstance(error, QuotaExceeded):
        return Outcome.REJECTED_QUOTA
    if isinstance(error, RequestError | PolicyError):
        return Outcome.REJECTED_INVALID
    if isinstance(error, Overloaded | ReplicaLost | Starting):
        return Outcome.REJECTED_CAPACITY
    if isinstance(error, DeadlineExceeded):
        return Outcome.EVICTED_DEADLINE
    if isinstance(error, AdapterError | RouterError):
        return Outcome.FAILED_ADAPTER
    return Outcome.FAILED_ENGINE


def invalid_body(error: ValidationError) -> RequestError:
    """Describe the first wrong fields, a sentence each; ``param`` is the first one's name."""
    lines: list[str] = []
    params: list[str] = []
    for item in error.errors(include_url=False, include_input=False)[:MAX_FAULTS]:
        place = [
            part if isinstance(part, int) else part[:MAX_PARAM_CHARS]
            for part in item["loc"]
            if not _names_a_type(part)
        ]
        message = item["msg"].removeprefix("Value error, ")[:MAX_FAULT_CHARS]
        if item["type"] == "value_error" and not place:
            name, colon, rest = message.partition(": ")
            place, message = ([name], rest) if colon else ([], message)
        elif item["type"] == "json_invalid":
            reason = item.get("ctx", {}).get("error", "")
            message = f"the body is not valid JSON: {reason}"
        elif item["type"] == "extra_forbidden":
            message = "unknown field"
        name = field_path(place)[:MAX_PARAM_CHARS]
        params.append(name)
        lines.append(f"{name}: {message}" if name else message)
    if error.error_count() > MAX_FAULTS:
        lines.append(f"and {error.error_count() - MAX_FAULTS} more")
    return RequestError(
        "; ".join(dict.fromkeys(lines)), param=next((name for name in params if name), None)
    )


def _names_a_type(part: int | str) -> bool:
    """Recognise a member of a union, which pydantic puts among the names of fields."""
    return isinstance(part, str) and (
        part in {"str", "int", "float", "bool"}
        or part.startswith(("list[", "dict[", "constrained"))
    )


def install(app: FastAPI) -> None:
    """Give ``app`` handlers for every kind of error, so that no foreign body leaks out."""

    @app.exception_handler(BraidError)
    async def braid_error(_: Request, error: BraidError) -> JSONResponse:
        current_record().fail(error, outcome_of(error))
        return JSONResponse(body_of(error), status_code=error.status, headers=headers_of(error))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        code = CODE_BY_STATUS.get(error.status_code, "invalid_request")
        message = str(error.detail)
        if error.status_code == 404:
            message = f"no such path: {request.method} {request.url.path}"
        current_record().refuse(code)
        return JSONResponse(
            error_body(error.status_code, message, code),
            status_code=error.status_code,
            headers=dict(error.headers or {}),
        )


def unexpected(request_id: str) -> JSONResponse:
    """Answer an unforeseen error; the log has the rest under the id."""
    return JSONResponse(
        error_body(500, f"internal error; the log has it as request {request_id}", SERVER_ERROR),
        status_code=500,
        headers={"x-should-retry": "false"},
    )
