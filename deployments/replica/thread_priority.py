"""Priorities of threads that share cores with the step thread."""

import os
import sys
import threading

NICENESS = 5
"""Added: with a step thread on the same core, a load gets about a quarter of it."""
_MOST = 19


def lower_priority() -> None:
    """Lower the calling thread's priority; only Linux has one for each thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + NICENESS
        os.setpriority(os.PRIO_PROCESS, thread, min(_MOST, niceness))
