"""Memory that was freed goes back to the system."""

import platform
import threading

import psutil
import pytest

from cluster.process_memory import return_free_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is glibc's")
def test_a_threads_leavings_are_returned() -> None:
    pieces: list[bytearray | None] = []

    def fill() -> None:
        pieces.extend(bytearray(b"x" * 100_000) for _ in range(600))

    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()
    # The last piece keeps the arena's end in use, so that nothing is returned by itself.
    pieces[:-1] = [None] * (len(pieces) - 1)
    process = psutil.Process()
    before = process.memory_info().rss
    return_free_memory()
    assert process.memory_info().rss < before - 40_000_000
