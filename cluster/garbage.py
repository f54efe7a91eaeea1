"""Keeps the cyclic garbage collector off the work of fronts and controllers."""

import gc

YOUNGEST = 20_000
"""Containers more than before, until the youngest are looked through: a front's step of some
hundred streams makes a thousand that are gone before the next one."""


def spare_long_lived() -> None:
    """Exclude everything that is there from collections, and collect less often.

    Call once, when a process has been set up: a full collection looks through all modules'
    objects, and nothing else runs meanwhile.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNGEST, *gc.get_threshold()[1:])
