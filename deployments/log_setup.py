"""Structured logs: one JSON object a line, with the process's part in the cluster."""

import atexit
import logging
import sys
import traceback
from types import TracebackType
from typing import Any

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from cluster.config import Settings
from cluster.errors import BraidError
from deployments.log_lines import LineSink, encode_line

MESSAGE_CHARACTERS = 300
TRACEBACK_CHARACTERS = 12_000
CAUSES = 8
FLUSH_S = 0.5

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def configure_logging(part: str, level: int = logging.INFO, *, hears_text: bool = False) -> None:
    """Write every event as JSON to standard output, labelled with ``part``.

    Where ``BRAID_LOG_FILE`` names a file, standard output and standard error are pointed to it.

    Args:
        hears_text: this process handles what clients write. Of other libraries' exceptions only
            type and place are logged then: their messages may repeat it.
    """
    sink = LineSink(Settings().log_file)
    atexit.register(sink.flush, FLUSH_S)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _labels(part),
            _exceptions(with_messages=not hears_text),
            _encode,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _SinkLogger(sink),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _LibraryHandler)]:
        root.removeHandler(handler)
    root.addHandler(_LibraryHandler())


def describe_exception(error: BaseException, *, with_messages: bool) -> str:
    """Describe an exception and what led to it, newest last, at most ``TRACEBACK_CHARACTERS`` long.

    Without ``with_messages`` only our own errors keep theirs.
    """
    chain = [error]
    while len(chain) < CAUSES:
        before = chain[-1].__cause__
        if before is None and not chain[-1].__suppress_context__:
            before = chain[-1].__context__
        if before is None or before in chain:
            break
        chain.append(before)
    parts = []
    for one in reversed(chain):
        said = f": {one}" if with_messages or isinstance(one, BraidError) else ""
        frames = "".join(traceback.format_tb(one.__traceback__))
        parts.append(f"{frames}{type(one).__name__}{said}")
        if isinstance(one, BaseExceptionGroup):
            parts += [
                describe_exception(inner, with_messages=with_messages) for inner in one.exceptions
            ]
    return "\n".join(parts)[-TRACEBACK_CHARACTERS:]


class _SinkLogger:
    """Takes encoded lines from structlog, whatever their level."""

    def __init__(self, sink: LineSink) -> None:
        self._sink = sink

    def msg(self, line: bytes) -> None:
        self._sink.write(line)

    debug = info = warning = error = critical = exception = fatal = warn = log = msg


class _LibraryHandler(logging.Handler):
    """Other libraries' warnings and errors as lines of our form."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            said = record.getMessage().split("\n", 1)[0][:MESSAGE_CHARACTERS]
            structlog.get_logger().log(
                record.levelno,
                "library",
                logger=record.name,
                message=said,
                exc_info=record.exc_info or None,
            )
        except Exception:
            self.handleError(record)


def _labels(part: str) -> Processor:
    def add(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["part"] = part
        return event

    return add


def _exceptions(*, with_messages: bool) -> Processor:
    def describe(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        found = _error_of(event.pop("exc_info", None))
        if found is not None:
            event["exception"] = describe_exception(found, with_messages=with_messages)
        return event

    return describe


def _error_of(
    exc_info: BaseException | _ExcInfo | tuple[None, None, None] | bool | None,
) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1]
    return sys.exc_info()[1] if exc_info else None


def _encode(_: WrappedLogger, __: str, event: EventDict) -> Any:
    return encode_line(event)
