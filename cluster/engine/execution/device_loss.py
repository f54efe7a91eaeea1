"""Tells errors that end a device's use for this process from those that a next step may not have.

After an illegal address, a launch failure or an ECC error, CUDA answers every later call of the
process with the same error: only a new process helps.
"""

import re

import torch

_DEVICE_TEXT = re.compile(
    r"CUDA (driver )?error|Triton Error \[CUDA\]|CU(BLAS|DNN|SOLVER|SPARSE)_STATUS_"
    r"|device-side assert"
)
_ROOM_TEXT = re.compile(r"out of memory|ALLOC_FAILED|out of resource", re.IGNORECASE)


def is_device_lost(error: BaseException) -> bool:
    """Return whether an error, or what it came from, is the device's and not a lack of memory."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.OutOfMemoryError):
            return False
        if isinstance(seen, RuntimeError):
            text = str(seen)
            device = isinstance(seen, torch.AcceleratorError) or _DEVICE_TEXT.search(text)
            if device and not _ROOM_TEXT.search(text):
                return True
        seen = seen.__cause__ or seen.__context__
    return False
