"""The process's heap."""

import ctypes


def return_free_memory() -> None:
    """Give freed memory back to the system, where the C library can.

    glibc keeps what was freed in the arena of each thread that had asked for it; the threads that
    load a model leave hundreds of megabytes there.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
