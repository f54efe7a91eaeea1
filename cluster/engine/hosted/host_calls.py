"""Calls to an engine host, each of which is answered."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock

import structlog

from cluster.engine.hosted.messages import Answer, ToHost
from cluster.errors import ReplicaLost

log = structlog.get_logger(__name__)

MakeCall = Callable[[int], ToHost]
"""Makes the message of a call, given its number."""


class HostCalls:
    """The calls that wait for an answer; any thread may ask but the one that brings the answers.

    Args:
        send: sends to the host, in the order in which it is called.
    """

    def __init__(self, send: Callable[[ToHost], None]) -> None:
        self._send = send
        self._numbers = itertools.count()
        self._lock = Lock()
        self._asked: dict[int, Future[Answer]] = {}
        self._lost: ReplicaLost | None = None

    def ask(self, make: MakeCall) -> Answer:
        """Send a call, and wait for its answer.

        Raises:
            ReplicaLost: the host has ended.
        """
        return self.begin(make).result()

    def begin(self, make: MakeCall) -> Future[Answer]:
        """Send a call, and return what will hold its answer, or ReplicaLost."""
        number = next(self._numbers)
        answer = Future[Answer]()
        with self._lock:
            if self._lost is not None:
                answer.set_exception(self._lost)
                return answer
            self._asked[number] = answer
        self._send(make(number))
        return answer

    def tell(self, make: MakeCall) -> None:
        """Send a call without waiting; what goes wrong is logged."""
        self._send(make(next(self._numbers)))

    def take(self, answer: Answer) -> None:
        """Hand an answer to who waits for it."""
        with self._lock:
            asked = self._asked.pop(answer.call, None)
        if asked is not None:
            asked.set_result(answer)
        elif answer.problem:
            log.error("engine_host.call_failed", problem=answer.problem)

    def lose(self, error: ReplicaLost) -> None:
        """Fail all calls, and those to come."""
        with self._lock:
            self._lost = error
            asked = list(self._asked.values())
            self._asked.clear()
        for one in asked:
            one.set_exception(error)
