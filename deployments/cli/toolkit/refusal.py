"""Errors of a server: with advice for people, unchanged for programs."""

from collections.abc import Mapping
from typing import Any

from cluster.errors import BraidError
from cluster.errors import error_from_code as known_error

HINTS = {
    "invalid_api_key": "give one with --key or --tenant, or set BRAID_API_KEY",
    "permission_denied": "use an administrator's with --key",
    "adapter_in_use": "that is --force here",
    "adapter_not_found": "`braid adapters list` shows what there is",
    "policy_conflict": "`braid policy show` tells what is in force",
    "policy_not_found": "`braid policy history` shows what there is",
    "router_not_found": "`braid router list` shows what there is",
    "router_conflict": "that is --replace here",
    "model_not_found": "`braid adapters list` and `braid router list` show what there is, and a "
    "tenant sees an adapter only where the tenants file or --grant lets it",
}
"""By the error's code: what a person at the command line can do."""


class ServerRefusal(Exception):
    """The error of a server's answer, word for word: the cause of the one that people see."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("message")))
        self.problem = problem


def refused(problem: Mapping[str, Any]) -> BraidError:
    """Turn the server's error into one of ours, with advice for the command line."""
    message = str(problem.get("message"))
    kind = type(known_error(str(problem.get("code")), message))
    error = kind(message, param=problem.get("param"))
    error.__cause__ = ServerRefusal(problem)
    hint = HINTS.get(error.code)
    return error if hint is None else advised(error, hint)


def advised(error: BraidError, advice: str) -> BraidError:
    """Copy an error and add advice to it."""
    told = type(error)(f"{error.message}; {advice}", param=error.param)
    told.__cause__ = error.__cause__
    return told


def code_of(error: BraidError) -> str | None:
    """Read the stable code of a server's error; returns None if no server has answered."""
    cause = error.__cause__
    code = cause.problem.get("code") if isinstance(cause, ServerRefusal) else None
    return None if code is None else str(code)


def error_body(error: BraidError) -> dict[str, Any]:
    """Write an error for programs, as a server does: ``{"error": {...}}``."""
    cause = error.__cause__
    if isinstance(cause, ServerRefusal):
        return {"error": {**cause.problem, "message": error.message}}
    return {"error": {"message": error.message, "param": error.param, "code": error.code}}
