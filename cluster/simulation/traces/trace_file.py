"""Reads and writes traces: one JSON object a line, a header first.

Fronts write such files while they serve, so a last line that is cut off is left out. Anything else
that is not as expected is an error with its line's number. Files packed by gzip are read as well.
"""

import difflib
import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BufferedReader
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import msgspec

from cluster.domain.ids import TenantId
from cluster.errors import ConfigError
from cluster.repeated import repeated
from cluster.simulation.trace import TRACE_FORMAT, ServedFacts, TraceRequest

DECIMALS = 6
"""Of times in seconds, as they are written."""
_UNKNOWN = "Object contains unknown field `"
_GZIP = b"\x1f\x8b"
_FAULTS = (OSError, EOFError, zlib.error)
"""Of files that cannot be read, packed ones included."""

MOST_TOKENS = 2**22
"""Of a request: a front takes bodies of 4 MiB, and a token is a byte or more."""
MOST_SECONDS = 1e11
"""Since 1970, in a header; today in milliseconds is more."""

Seconds = Annotated[float, msgspec.Meta(ge=0, le=MOST_SECONDS)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Length = Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)]
Name = Annotated[str, msgspec.Meta(min_length=1)]


class TraceHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The first line of a trace."""

    format: str = ""  # always ``TRACE_FORMAT``
    start: float | None = None  # wall clock at t = 0, seconds since the epoch; None: none is meant
    block_tokens: Annotated[int, msgspec.Meta(ge=1)] = 16  # that each hash of a prefix stands for
    about: str = ""  # how the trace was made, for people


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One request as it stands in the file."""

    t: Seconds
    tenant: Name
    adapters: tuple[Name, ...] = msgspec.field(name="set")
    prompt_tokens: Length
    generated_tokens: Count
    max_tokens: Length
    prefix: tuple[Count, ...] = ()
    deadline: Annotated[float, msgspec.Meta(gt=0)] | None = None
    replica: str | None = None
    tier_found: str | None = None
    ttft: Seconds | None = None
    e2e: Seconds | None = None
    outcome: str | None = None
    queued: Seconds | None = None
    pick: dict[str, Any] | None = None


_lines = msgspec.json.Decoder(_Line)
_headers = msgspec.json.Decoder(TraceHeader)
_encoder = msgspec.json.Encoder()
_HEADER_KEYS = tuple(field.encode_name for field in msgspec.structs.fields(TraceHeader))
_LINE_KEYS = tuple(field.encode_name for field in msgspec.structs.fields(_Line))


def encode_header(header: TraceHeader) -> bytes:
    """Return the first line of a trace."""
    return _encoder.encode(msgspec.structs.replace(header, format=TRACE_FORMAT)) + b"\n"


def encode_request(request: TraceRequest) -> bytes:
    """Return a request's line; times are rounded to microseconds."""
    served = request.served
    line = _Line(
        t=round(request.at, DECIMALS),
        tenant=request.tenant,
        adapters=request.adapters,
        prompt_tokens=request.prompt_tokens,
        generated_tokens=request.generated_tokens,
        max_tokens=request.max_tokens,
        prefix=request.prefix,
        deadline=request.deadline_s,
        replica=None if served is None else served.replica,
        tier_found=None if served is None else served.tier_found,
        ttft=None if served is None else _rounded(served.ttft),
        e2e=None if served is None else _rounded(served.e2e),
        outcome=None if served is None else served.outcome,
        queued=None if served is None else _rounded(served.queued),
        pick=None if served is None or served.pick is None else dict(served.pick),
    )
    return _encoder.encode(line) + b"\n"


def read_header(path: Path) -> TraceHeader:
    """Return a trace's header.

    Raises:
        ConfigError: the file cannot be read, or does not begin with the header of a trace.
    """
    try:
        with _opened(path) as file:
            return _parse_header(file.readline(), str(path))
    except _FAULTS as error:
        raise _unreadable(path, error) from error


def read_requests(path: Path) -> Iterator[TraceRequest]:
    """Yield the requests in the file's order: that of arrival, or in a front's log that of end.

    Raises:
        ConfigError: the file cannot be read or a line is wrong; the message has its number.
    """
    try:
        with _opened(path) as file:
            _parse_header(file.readline(), str(path))
            for number, line in enumerate(file, start=2):
                if not line.endswith(b"\n") and not _is_whole(line):
                    return  # the writer has not finished it
                yield _parse_line(line, f"{path}:{number}")
    except _FAULTS as error:
        raise _unreadable(path, error) from error


def load_trace(paths: Path | Sequence[Path]) -> list[TraceRequest]:
    """Return the requests of one trace, or of several fronts' logs together, by time.

    Several files are merged by the ``start`` of their headers; t = 0 is the
    earliest of them.

    Raises:
        ConfigError: as ``read_requests``; or one of several files is named twice, has no ``start``,
            or another ``block_tokens`` than the first.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    headers = [read_header(path) for path in files]
    _check_together(files, headers)
    first = min((header.start or 0.0 for header in headers), default=0.0)
    found: list[TraceRequest] = []
    for path, header in zip(files, headers, strict=True):
        later = (header.start or 0.0) - first
        requests = read_requests(path)
        if later:
            found += (replace(request, at=request.at + later) for request in requests)
        else:
            found += requests
    found.sort(key=attrgetter("at"))
    return found


def trace_start(paths: Sequence[Path]) -> float | None:
    """Return the wall clock at t = 0 of what ``load_trace`` returns; None: the files have none.

    Raises:
        ConfigError: as ``read_header``.
    """
    starts = [read_header(path).start for path in paths]
    return min((start for start in starts if start is not None), default=None)


def _opened(path: Path) -> BufferedReader | gzip.GzipFile:
    with path.open("rb") as file:
        packed = file.read(len(_GZIP)) == _GZIP
    return gzip.open(path, "rb") if packed else path.open("rb")


def _check_together(files: Sequence[Path], headers: Sequence[TraceHeader]) -> None:
    if len(files) < 2:
        return
    if twice := repeated(str(path.resolve()) for path in files):
        raise ConfigError(f"{twice[0]}: named twice, so its requests would count double")
    for path, header in zip(files, headers, strict=True):
        if header.start is None:
            raise ConfigError(
                f"{path}: start: expected the wall clock at t = 0, since several traces are read "
                "together; read it alone, or add it to the header"
            )
        if header.block_tokens != headers[0].block_tokens:
            raise ConfigError(
                f"{path}: block_tokens: expected {headers[0].block_tokens} as in {files[0]}, "
                f"found {header.block_tokens}; read them one by one"
            )


def _parse_header(line: bytes, where: str) -> TraceHeader:
    if not line.strip():
        raise ConfigError(f"{where}:1: expected a header, and the file is empty")
    try:
        header = _headers.decode(line)
    except msgspec.DecodeError as error:
        raise _problem(error, f"{where}:1", _HEADER_KEYS, "of the header") from error
    if header.format != TRACE_FORMAT:
        raise ConfigError(
            f'{where}:1: format: expected "{TRACE_FORMAT}", found "{header.format}"; '
            "convert the file first"
        )
    if header.start is not None and not 0 <= header.start <= MOST_SECONDS:
        raise ConfigError(
            f"{where}:1: start: expected seconds since 1970, found {header.start:g}"
            + ("; divide milliseconds by 1000" if header.start > 0 else "")
        )
    return header


def _parse_line(line: bytes, where: str) -> TraceRequest:
    try:
        found = _lines.decode(line)
    except msgspec.DecodeError as error:
        raise _problem(error, where, _LINE_KEYS, "of a request") from error
    if found.generated_tokens > found.max_tokens:
        raise ConfigError(
            f"{where}: generated_tokens: expected at most max_tokens ({found.max_tokens}), "
            f"found {found.generated_tokens}"
        )
    adapters = found.adapters
    if len(adapters) > 1:
        adapters = tuple(sorted(set(adapters)))
        if len(adapters) != len(found.adapters):
            raise ConfigError(f"{where}: set: expected each adapter once, found {found.adapters}")
    return TraceRequest(
        found.t,
        TenantId(found.tenant),
        adapters,
        found.prompt_tokens,
        found.generated_tokens,
        found.max_tokens,
        found.prefix,
        found.deadline,
        _served(found, where),
    )


def _served(line: _Line, where: str) -> ServedFacts | None:
    if line.outcome is None and line.e2e is None and line.replica is None:
        return None
    if line.outcome is None or line.e2e is None:
        missing = "outcome" if line.outcome is None else "e2e"
        raise ConfigError(f"{where}: {missing}: expected with what was recorded of the request")
    return ServedFacts(
        line.replica or "",
        line.tier_found or "",
        line.ttft,
        line.e2e,
        line.outcome,
        line.queued,
        line.pick,
    )


def _is_whole(line: bytes) -> bool:
    try:
        _lines.decode(line)
    except msgspec.ValidationError:
        return True  # whole, and wrong: an error that is shown
    except msgspec.DecodeError:
        return False
    return True


def _problem(
    error: msgspec.DecodeError, where: str, keys: Sequence[str], whose: str
) -> ConfigError:
    text = str(error)
    if text.startswith(_UNKNOWN):
        key = text[len(_UNKNOWN) :].split("`", 1)[0]
        close = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
        hint = f'; did you mean "{close[0]}"?' if close else f"; expected {', '.join(keys)}"
        return ConfigError(f'{where}: "{key}": not a key {whose}{hint}')
    return ConfigError(f"{where}: {text}; correct the line, or leave it out")


def _unreadable(path: Path, error: Exception) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) else None
    return ConfigError(f"{path}: cannot be read: {reason or error}; name another file")


def _rounded(seconds: float | None) -> float | None:
    if seconds is None or not math.isfinite(seconds):
        return None
    return round(seconds, DECIMALS)
