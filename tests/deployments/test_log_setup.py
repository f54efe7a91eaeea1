"""Checks that a process logs JSON of one form, from every source, without text of clients."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import RequestError
from deployments.log_setup import TRACEBACK_CHARACTERS, describe_exception

SECRET = "words of a client"

SETUP = """
import logging, sys, structlog
from deployments.log_setup import configure_logging
configure_logging({part!r}, hears_text={hears_text})
log = structlog.get_logger()
"""


def run(
    code: str, tmp_path: Path, *, hears_text: bool = False, **environment: str
) -> list[dict[str, Any]]:
    """Return the lines that a process writes to standard output, all of them JSON."""
    source = SETUP.format(part="front", hears_text=hears_text) + code
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), **environment},
        cwd=tmp_path,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_event_has_its_part_level_and_time(tmp_path: Path) -> None:
    (line,) = run("log.warning('happened', n=1)", tmp_path)
    assert (line["event"], line["part"], line["level"], line["n"]) == (
        "happened",
        "front",
        "warning",
        1,
    )
    assert line["timestamp"].endswith("Z")


def test_other_libraries_warnings_have_the_same_form(tmp_path: Path) -> None:
    code = """
logging.getLogger("uvicorn.error").warning("first %s\\nsecond", "line")
logging.getLogger("uvicorn.error").info("not this")
try:
    {}["x"]
except KeyError:
    logging.getLogger("asyncio").exception("failed")
"""
    first, second = run(code, tmp_path)
    assert (first["event"], first["logger"], first["message"]) == (
        "library",
        "uvicorn.error",
        "first line",
    )
    assert (second["level"], second["logger"]) == ("error", "asyncio")
    assert "KeyError" in second["exception"]


def test_the_log_file_takes_both_outputs(tmp_path: Path) -> None:
    file = tmp_path / "braid.log"
    code = "log.info('one')\nprint('two', flush=True)\nprint('three', file=sys.stderr)"
    assert run(code, tmp_path, BRAID_LOG_FILE=str(file)) == []
    first, *rest = file.read_text().splitlines()
    assert json.loads(first)["event"] == "one"
    assert sorted(rest) == ["three", "two"]


@pytest.mark.parametrize("hears_text", [True, False])
def test_messages_of_foreign_exceptions_are_kept_from_the_log_where_text_is_heard(
    tmp_path: Path, hears_text: bool
) -> None:
    code = f"""
try:
    raise KeyError({SECRET!r}.upper().lower())
except KeyError as error:
    log.error("failed", exc_info=error)
"""
    (line,) = run(code, tmp_path, hears_text=hears_text)
    assert "KeyError" in line["exception"]
    assert (SECRET in line["exception"]) is not hears_text


def raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


def test_what_led_to_an_exception_is_told_and_only_our_own_say_what() -> None:
    try:
        try:
            raise ValueError(SECRET)
        except ValueError as inner:
            raise RequestError("top_p: expected a number", param="top_p") from inner
    except RequestError as error:
        said = describe_exception(error, with_messages=False)
    assert SECRET not in said
    assert said.index("ValueError") < said.index("RequestError: top_p: expected a number")


def test_groups_cycles_and_endless_chains_end() -> None:
    group = ExceptionGroup("several", [raised(ValueError(SECRET)), raised(OSError(SECRET))])
    said = describe_exception(raised(group), with_messages=False)
    assert "ValueError" in said
    assert "OSError" in said
    assert SECRET not in said
    first, second = ValueError(), OSError()
    first.__cause__, second.__cause__ = second, first
    assert "ValueError" in describe_exception(first, with_messages=True)
    long = ValueError("x" * 100_000)
    assert len(describe_exception(long, with_messages=True)) == TRACEBACK_CHARACTERS
