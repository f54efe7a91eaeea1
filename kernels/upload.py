"""Copies from host memory that steps on the device do not wait for."""

import torch


class Upload:
    """Copies rows onto one device.

    On a GPU the copies have a stream of their own. A copy begins after what the device was given
    before, since the memory it writes may have belonged to that. The thread that asks for it
    waits for its end, without the interpreter's lock; what the device is given meanwhile does
    not. The source should be page-locked: the driver takes any other through a buffer, piece by
    piece.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy ``source`` (host) over ``target`` (device), and return when it is there."""
        if self._stream is None:
            target.copy_(source)
            return
        self._stream.wait_stream(torch.cuda.current_stream(target.device))
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        self._stream.synchronize()
