"""``braid logs``."""

import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import orjson
import typer

from cluster.errors import ConfigError
from deployments.cli.toolkit import console
from deployments.cli.toolkit.client import open_state
from deployments.local.log_file import log_files

LINES = 100
POLL_S = 0.2
BEGIN = b'{"'


def logs(
    lines: Annotated[
        int, typer.Option("-n", "--lines", help="How many, the newest.", min=1)
    ] = LINES,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Wait for more.")] = False,
    request: Annotated[
        str | None, typer.Option(help="Only lines of this request: its x-request-id.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Only lines of this tenant.")] = None,
    event: Annotated[
        str | None, typer.Option(help="Only this event, such as `request`: a line per request.")
    ] = None,
) -> None:
    """Print what the processes of this state folder's cluster logged, one JSON object a line."""
    path = open_state().cluster_log
    files = log_files(path)
    if not files:
        raise ConfigError(f"{path}: no log yet; start a cluster with `braid up`")
    wanted = {"request": request, "tenant": tenant, "event": event}
    found: deque[str] = deque(maxlen=lines)
    for file in files[:-1]:
        found.extend(_matching(file.read_bytes().splitlines(), wanted))
    with files[-1].open("rb") as newest:
        found.extend(_matching(newest.read().splitlines(), wanted))
        for line in found:
            console.plain(line)
        if not found and not follow:
            console.note(f"no line of {path} or of the older files next to it matches")
        if follow:
            for line in _matching(lines_after(newest, path), wanted):
                console.plain(line)


def _matching(lines: Iterator[bytes] | list[bytes], wanted: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that are JSON objects with these members; a None member is not compared."""
    for line in lines:
        found = _object_of(line)
        if found is not None and all(
            value is None or found[0].get(name) == value for name, value in wanted.items()
        ):
            yield found[1].decode().rstrip("\n")


def _object_of(line: bytes) -> tuple[dict[str, Any], bytes] | None:
    """Return the object at the end of a line, read and as it stands there, or None.

    Before it there may be what a library wrote without an end of line, or the begun line of a
    process that ended.
    """
    start = line.find(BEGIN)
    while start >= 0:
        try:
            fields = orjson.loads(line[start:])
        except orjson.JSONDecodeError:
            start = line.find(BEGIN, start + 1)
            continue
        return (fields, line[start:]) if start == 0 or "event" in fields else None
    return None


def lines_after(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Yield new lines of ``file`` as they come, and of files that take its name later.

    Closes ``file`` once that happens.
    """
    rest = b""
    while True:
        piece = file.read()
        if piece:
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole
            continue
        if _was_moved(path, file.fileno()):
            time.sleep(1 + POLL_S)  # writers move on within a second
            rest += file.read()
            yield from rest.splitlines()
            file.close()
            file, rest = path.open("rb"), b""
            continue
        time.sleep(POLL_S)


def _was_moved(path: Path, descriptor: int) -> bool:
    try:
        return not os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:  # the new one is not there yet
        return False
