"""Thread counts of small operations on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Run what is inside on the calling thread alone, where ``device`` is the CPU.

    An operation of some microseconds gains little from a second thread, and every parallel region
    waits for its slowest thread: where another process holds a core, for a whole time slice.
    Changing the count costs a fraction of a microsecond.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
