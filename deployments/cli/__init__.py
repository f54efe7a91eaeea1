"""The command ``braid``."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """Entry point; everything is imported when it is called."""
    with importing():
        from deployments.cli.command_line import app

    app()


@contextmanager
def importing() -> Iterator[None]:
    """Within it Ctrl-C ends the process at once.

    A package that is interrupted while it is imported may swallow that, or raise what it likes.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
