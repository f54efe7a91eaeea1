"""Host memory that goes back to the system as soon as it is freed.

The C library keeps freed memory for later, in one heap per thread; adapters come and go in sizes
that fit no gap of an earlier one, so that a process would look as if it had never freed them.
"""

import contextlib
import mmap

_LEAST = 1 << 20
"""Bytes from which memory is mapped; less is left to the heap."""
_HUGE = getattr(mmap, "MADV_HUGEPAGE", None)
"""Linux's advice: pages of 2 MiB, so that writing it first costs little more than on the heap."""


def allocate(nbytes: int) -> memoryview:
    """Allocate zeroed, writable bytes; they are free when nothing refers to them any more."""
    if nbytes < _LEAST:
        return memoryview(bytearray(nbytes))
    mapped = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if _HUGE is not None:
        with contextlib.suppress(OSError):  # a kernel without such pages
            mapped.madvise(_HUGE)
    return memoryview(mapped)
