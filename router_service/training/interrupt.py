"""Ctrl-C between two steps, where the state is whole."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def delayed_interrupt() -> Iterator[Callable[[], bool]]:
    """Within it a first SIGINT is only noted, and the yielded function says so; a second one
    interrupts at once. Elsewhere than in the main thread nothing is changed."""
    noted = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: noted
        return
    before = signal.getsignal(signal.SIGINT)

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, before)
