"""Waiting for something that another process does."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(what: str, probe: Callable[[], T | None], timeout_s: float, pause_s: float = 0.1) -> T:
    """Ask ``probe`` until its answer is true, and return that answer.

    Args:
        what: named in the error.

    Raises:
        AssertionError: no answer was true within ``timeout_s``; the message has the last one.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:g} s; last answer: {answer!r}")
        time.sleep(pause_s)
