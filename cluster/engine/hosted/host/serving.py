"""Serves one replica over a socket until either side ends."""

import os
import socket
import sys
import threading
from collections.abc import Callable

from cluster.engine.hosted.host.parent_death import end_with_parent
from cluster.engine.hosted.messages import (
    Failed,
    Frames,
    FromHost,
    Ready,
    Start,
    ToHost,
    decode_to_host,
    frame,
)

Send = Callable[[FromHost], None]


def serve(fd: int, parent: int) -> None:
    """Load the model that the replica names, and step until the replica ends.

    Args:
        fd: this side's end of the socket, as it was inherited.
        parent: id of the replica's process.
    """
    end_with_parent(parent)
    os.set_inheritable(fd, False)  # the ranks' processes are not to hold it open
    connection = socket.socket(fileno=fd)

    def send(message: FromHost) -> None:
        connection.sendall(frame(message))

    frames = Frames()
    (start, *early) = _first(connection, frames)
    assert isinstance(start, Start)
    try:
        _run(start, early, connection, frames, send)
    except Exception as error:
        print(f"the engine host ends: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        send(Failed(f"{type(error).__name__}: {error}"))
        raise SystemExit(1) from error


def _run(
    start: Start, early: list[ToHost], connection: socket.socket, frames: Frames, send: Send
) -> None:
    # vLLM is loaded here, so that the replica receives what goes wrong with it.
    from cluster.engine.hosted.host.core_setup import build_core
    from cluster.engine.hosted.host.stepping import CoreLoop, Inbox

    inbox = Inbox()
    for message in early:
        inbox.put(message)
    reader = threading.Thread(target=_read, args=(connection, frames, inbox.put), daemon=True)
    reader.start()
    core = build_core(start, on_rank_lost=lambda: _rank_lost(send))
    loop = CoreLoop(core, inbox, send)
    send(_ready(core))
    loop.run()


def _rank_lost(send: Send) -> None:
    """End with the first of the ranks' processes that ends, in the middle of a step too."""
    send(Failed("a rank has ended"))
    os._exit(1)


def _ready(core: object) -> Ready:
    from vllm import __version__
    from vllm.platforms import current_platform

    config = core.vllm_config  # type: ignore[attr-defined]
    return Ready(
        max_model_len=config.model_config.max_model_len,
        vocab_size=config.model_config.get_vocab_size(),
        kv_blocks=config.cache_config.num_gpu_blocks - 1,
        device_type=current_platform.device_type,
        device_name=current_platform.get_device_name(),
        version=__version__,
    )


def _first(connection: socket.socket, frames: Frames) -> list[ToHost]:
    while True:
        received = frames.receive(connection)
        if received is None:
            os._exit(0)
        if received:
            return [decode_to_host(data) for data in received]


def _read(connection: socket.socket, frames: Frames, put: Callable[[ToHost], None]) -> None:
    """Take what comes; the end of the replica ends this process, in the middle of a step too."""
    while True:
        received = frames.receive(connection)
        if received is None:
            os._exit(0)
        for data in received:
            put(decode_to_host(data))
