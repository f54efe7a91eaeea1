"""Runs functions in threads next to what is tested or measured."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class BackgroundThreads:
    """Runs each function in a thread of its own, from entering to leaving.

    Every function returns soon after ``_stop`` is set. A subclass calls ``__init__`` last.
    """

    def __init__(self, *functions: Callable[[], None]) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=function) for function in functions]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
