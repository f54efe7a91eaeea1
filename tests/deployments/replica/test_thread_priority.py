"""Checks threads that lower their priority."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from deployments.replica.thread_priority import NICENESS, lower_priority


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_only_its_own_threads_lower_priority() -> None:
    own = niceness()
    with ThreadPoolExecutor(1, initializer=lower_priority) as executor:
        assert executor.submit(niceness).result() == min(19, own + NICENESS)
        for _ in range(5):  # never beyond what the system knows, however low a thread began
            executor.submit(lower_priority).result()
        assert executor.submit(niceness).result() == 19
    assert niceness() == own
