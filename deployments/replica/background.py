"""Threads that give way to the step thread."""

import os
import sys
import threading

NICENESS = 5
"""Added: beside a step thread on the same core, about a quarter of it is left for a load."""
_MOST = 19


def give_way() -> None:
    """Lower the calling thread's priority; only Linux has one for each thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + NICENESS
        os.setpriority(os.PRIO_PROCESS, thread, min(_MOST, niceness))
