"""Writes a trace's file, as fronts do while they serve."""

from collections.abc import Iterable
from pathlib import Path

from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.trace_file import TraceHeader, encode_header, encode_request


def write_trace(path: Path, requests: Iterable[TraceRequest], header: TraceHeader) -> None:
    """Write a header and a line for each request."""
    lines = [encode_header(header), *map(encode_request, requests)]
    path.write_bytes(b"".join(lines))
