"""Collects the log's line of each request while it is served, and writes it once at its end.

A line has names, counts and times, never text: no prompt, no answer, no key, and of a refused
field only its name.
"""

import re
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import structlog

from cluster.domain.adapter import WeightedAdapter
from cluster.domain.request import Outcome
from cluster.errors import BraidError
from router_service.request_decision import RequestDecision

log = structlog.get_logger(__name__)

MODEL = re.compile(r"[\w.:/@+-]{1,128}")
PARAM = re.compile(r"[a-z_][a-z0-9_]{0,31}(\.[a-z0-9_]{1,32}|\[[0-9]{1,9}\]){0,8}")
PATH_CHARACTERS = 128
MIXTURE_TERMS = 16
DIGEST_CHARACTERS = 12
CLIENT_CLOSED = "client_closed"
SERVER_ERROR = "server_error"
UNNAMED = "(not a name)"
"""Stands for what a client wrote where a name belongs, if it is not a name."""


@dataclass(slots=True)
class RequestRecord:
    """Holds what one request's line will say. Belongs to the request's task and its children."""

    id: str = ""
    method: str = ""
    path: str = ""
    started: float = 0.0  # monotonic, seconds
    tenant: str | None = None
    endpoint: str | None = None
    model: str | None = None
    stream: bool = False
    status: int | None = None  # once the answer has begun
    outcome: Outcome | None = None
    code: str | None = None
    param: str | None = None
    route_s: float = 0.0
    fields: dict[str, Any] = field(default_factory=dict)  # of the decision and of the generation
    written: bool = False

    def asks(self, endpoint: str, model: str, *, stream: bool | None) -> None:
        """Note what a body asks for."""
        self.endpoint, self.stream = endpoint, bool(stream)
        self.model = model if MODEL.fullmatch(model) else UNNAMED

    def decided(self, decided: RequestDecision, seconds: float) -> None:
        """Note the decision, and the time that it took."""
        decision = decided.decision
        self.route_s += seconds
        self.fields |= {
            "decision": decision.id,
            "source": decided.source.value,
            "router": decision.router,
            "mixture": mixture_terms(decision.mixture),
        }

    def fail(self, error: BaseException, outcome: Outcome) -> None:
        """Note why there is no whole answer; the first reason stands."""
        if self.code is not None:
            return
        self.outcome = outcome
        if isinstance(error, BraidError):
            self.code = error.code
            if error.param is not None:
                self.param = error.param if PARAM.fullmatch(error.param) else UNNAMED
        else:
            self.code = CLIENT_CLOSED if outcome is Outcome.CANCELLED else SERVER_ERROR

    def refuse(self, code: str) -> None:
        """Note an error whose status says what it is."""
        self.code = self.code or code

    def line(self, now: float) -> dict[str, Any]:
        """Return the line's members; those that do not apply are left out.

        Args:
            now: monotonic, seconds.
        """
        outcome = self.outcome or outcome_of_status(self.status)
        members = {
            "request": self.id,
            "tenant": self.tenant,
            "method": self.method,
            "path": self.path[:PATH_CHARACTERS],
            "endpoint": self.endpoint,
            "model": self.model,
            "stream": self.stream or None,
            "status": self.status,
            "outcome": outcome.value,
            "code": self.code,
            "param": self.param,
            **self.fields,
            "route_ms": milliseconds(self.route_s) if "decision" in self.fields else None,
            "total_ms": milliseconds(now - self.started),
        }
        return {name: value for name, value in members.items() if value is not None}

    def write(self, now: float) -> None:
        """Write the line, unless it has been written."""
        if not self.written:
            self.written = True
            log.info("request", **self.line(now))


_current: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)


def begin_record(record: RequestRecord) -> None:
    """Make ``record`` the one of this task and those that it will start."""
    _current.set(record)


def current_record() -> RequestRecord:
    """Return the record of the request being served; without one, one that is never written."""
    return _current.get() or RequestRecord(written=True)


def outcome_of_status(status: int | None) -> Outcome:
    """Return the outcome of a request by the status of its answer; None stands for no answer."""
    match status:
        case None | 499:
            return Outcome.CANCELLED
        case 401 | 403:
            return Outcome.REJECTED_AUTH
        case 429:
            return Outcome.REJECTED_QUOTA
        case 503:
            return Outcome.REJECTED_CAPACITY
        case 504:
            return Outcome.EVICTED_DEADLINE
    if status < 400:
        return Outcome.COMPLETED
    return Outcome.REJECTED_INVALID if status < 500 else Outcome.FAILED_ENGINE


def mixture_terms(mixture: Iterable[WeightedAdapter]) -> list[dict[str, Any]]:
    """List name, start of the digest and weight of each adapter, at most ``MIXTURE_TERMS``."""
    return [
        {
            "adapter": term.key.alias,
            "digest": term.key.digest[:DIGEST_CHARACTERS],
            "weight": round(term.weight, 4),
        }
        for term in tuple(mixture)[:MIXTURE_TERMS]
    ]


def milliseconds(seconds: float) -> float:
    """Return milliseconds, rounded to a tenth."""
    return round(seconds * 1000, 1)


def longest(seconds: Sequence[float]) -> float | None:
    """Return the longest of some times in milliseconds, or None if there are none."""
    return milliseconds(max(seconds)) if seconds else None
