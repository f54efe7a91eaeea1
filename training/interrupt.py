"""Ctrl-C and SIGTERM between two steps, where the state is whole."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def delayed_interrupt() -> Iterator[Callable[[], bool]]:
    """Note a first SIGINT or SIGTERM; the yielded function then returns True."""
    noted = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: noted
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
