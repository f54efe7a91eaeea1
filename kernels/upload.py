"""Copies from host memory that steps on the device do not wait for."""

from collections.abc import Callable, Sequence

import torch

PIECE_BYTES = 8 * 2**20
PIECES = 2


class Upload:
    """Copies rows onto one device.

    On a GPU the copies have a stream of their own. A copy begins after what the device was given
    before, since the memory it writes may have belonged to that. The thread that asks for it
    waits for its end, without the interpreter's lock; what the device is given meanwhile does
    not. Rows go through a ring of page-locked memory, a piece being filled while the one before is
    sent: locking pages for each row would stall the device, and take more memory than the row.

    One thread at a time may copy.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._ring: tuple[torch.Tensor, ...] = ()
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            self._ring = tuple(
                torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(PIECES)
            )

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy ``source`` (host) over ``target`` (device), and return when it is there.

        Both are one contiguous row of the same dtype.
        """
        stream = self._stream
        if stream is None:
            target.copy_(source)
            return

        def send(part: torch.Tensor, piece: torch.Tensor) -> Callable[[], None]:
            with torch.cuda.stream(stream):
                part.copy_(piece, non_blocking=True)
                sent: torch.cuda.Event = stream.record_event()
            return sent.synchronize

        stream.wait_stream(torch.cuda.current_stream(target.device))
        copy_in_pieces(target, source, self._ring, send)


def copy_in_pieces(
    target: torch.Tensor,
    source: torch.Tensor,
    ring: Sequence[torch.Tensor],
    send: Callable[[torch.Tensor, torch.Tensor], Callable[[], None]],
) -> None:
    """Copy a row by way of a ring of buffers, and return when it is there.

    Args:
        target: contiguous, [n].
        source: the same, in host memory.
        ring: buffers of bytes, of one size.
        send: begins to copy a piece's bytes to a part of the target; what it returns waits for the
            end, until which the piece is not written again.
    """
    to, of = target.view(torch.uint8), source.view(torch.uint8)
    size = ring[0].numel()
    under_way: list[Callable[[], None] | None] = [None] * len(ring)
    for number, first in enumerate(range(0, of.numel(), size)):
        place = number % len(ring)
        wait = under_way[place]
        if wait is not None:
            wait()
        part = of[first : first + size]
        piece = ring[place][: part.numel()]
        piece.copy_(part)
        under_way[place] = send(to[first : first + size], piece)
    for wait in under_way:
        if wait is not None:
            wait()
