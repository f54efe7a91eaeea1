"""Ends this process with the one that started it, whatever way that goes."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the thread that started it ends.

    Where it cannot, the end of the socket is what remains.

    Args:
        parent: id of the process that started this one; if it has ended before, so does this one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
