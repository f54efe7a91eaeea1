"""The published formats: Azure's LLM inference traces, BurstGPT, Mooncake."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec

from cluster.errors import ConfigError
from cluster.simulation.traces.imports.csv_rows import CsvRow, csv_rows
from cluster.simulation.traces.imports.imported import (
    ImportedTrace,
    ImportMapping,
    PublishedRequest,
    import_requests,
)

MOONCAKE_BLOCK = 512
"""Tokens of a block in Mooncake's traces."""
Parser = Callable[[Iterable[str], str], Iterator[PublishedRequest]]
"""Reads a file's lines; its name is for messages."""


def parse_azure(lines: Iterable[str], source: str) -> Iterator[PublishedRequest]:
    """Yield the requests of an Azure LLM inference trace (2023 or 2024, CSV).

    Columns: TIMESTAMP (date and time, with or without a zone), ContextTokens, GeneratedTokens.

    Raises:
        ConfigError: a line is wrong.
    """
    for row in csv_rows(lines, source, ("TIMESTAMP", "ContextTokens", "GeneratedTokens")):
        yield PublishedRequest(
            _moment(row), row.count("ContextTokens"), row.count("GeneratedTokens")
        )


def parse_burstgpt(lines: Iterable[str], source: str) -> Iterator[PublishedRequest]:
    """Yield the requests of a BurstGPT trace (CSV, with or without sessions).

    Columns: Timestamp (seconds), Model, Request tokens, Response tokens, Log Type; where there,
    Session ID. A request without response tokens failed. Total tokens and Elapsed time are not
    needed.

    Raises:
        ConfigError: a line is wrong.
    """
    needed = ("Timestamp", "Model", "Request tokens", "Response tokens")
    for row in csv_rows(lines, source, needed):
        yield PublishedRequest(
            row.seconds("Timestamp"),
            row.count("Request tokens"),
            row.count("Response tokens"),
            label=row.text("Model"),
            session=row.text("Session ID"),
        )


class _MooncakeLine(msgspec.Struct, frozen=True):
    """One line of a Mooncake trace; other members are ignored."""

    timestamp: Annotated[float, msgspec.Meta(ge=0)]  # milliseconds
    input_length: Annotated[int, msgspec.Meta(ge=0)]
    output_length: Annotated[int, msgspec.Meta(ge=0)]
    hash_ids: tuple[Annotated[int, msgspec.Meta(ge=0)], ...] = ()


def parse_mooncake(lines: Iterable[str], source: str) -> Iterator[PublishedRequest]:
    """Yield the requests of a Mooncake trace (JSONL).

    Members: timestamp (milliseconds), input_length, output_length, hash_ids (blocks of 512 tokens,
    the last one maybe partial).

    Raises:
        ConfigError: a line is wrong.
    """
    decoder = msgspec.json.Decoder(_MooncakeLine)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = decoder.decode(line)
        except msgspec.DecodeError as error:
            raise ConfigError(
                f"{source}:{number}: {error}; correct the line, or leave it out"
            ) from error
        if len(found.hash_ids) * MOONCAKE_BLOCK >= found.input_length + MOONCAKE_BLOCK:
            raise ConfigError(
                f"{source}:{number}: hash_ids: expected at most one for each started block of "
                f"{MOONCAKE_BLOCK} tokens of input_length {found.input_length}, found "
                f"{len(found.hash_ids)}; correct the line, or leave it out"
            )
        yield PublishedRequest(
            found.timestamp / 1000,
            found.input_length,
            found.output_length,
            blocks=found.hash_ids,
            block_tokens=MOONCAKE_BLOCK,
        )


PARSERS: Mapping[str, Parser] = {
    "azure": parse_azure,
    "burstgpt": parse_burstgpt,
    "mooncake": parse_mooncake,
}


def import_trace(path: Path, form: str, mapping: ImportMapping) -> ImportedTrace:
    """Import a published trace.

    Args:
        path: the file, as it was published, unpacked.
        form: azure, burstgpt or mooncake.
        mapping: the tenants and adapters that are added, and what is cut.

    Raises:
        ConfigError: the form is unknown, the file cannot be read, or a line is wrong.
    """
    if form not in PARSERS:
        raise ConfigError(f'"{form}": not a known format; expected one of {", ".join(PARSERS)}')
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return import_requests(PARSERS[form](file, str(path)), mapping, f"{form} {path.name}")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror or error}; name another file"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text; unpack it first") from error


def _moment(row: CsvRow) -> float:
    try:
        moment = datetime.fromisoformat(row.text("TIMESTAMP"))
    except ValueError as error:
        raise row.wrong("TIMESTAMP", "a date and time") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()
