"""Parses Python sources where other threads or finalizers may parse as well."""

import ast
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.RLock()


@contextmanager
def undisturbed_parsing() -> Iterator[None]:
    """Keep everything else from parsing while the block does, one block at a time.

    Python 3.11 counts the depth of the tree that it builds in one place for all threads. The
    garbage collector may run in the midst of that, and with it finalizers, callbacks and then
    other threads; if one of them parses (to show a traceback is enough) the count is wrong:
    "AST constructor recursion depth mismatch". Nothing but the collector can interrupt it.
    """
    with _LOCK:
        enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if enabled:
                gc.enable()


def parse_python(source: str, name: str = "<unknown>") -> ast.Module:
    """Return the tree of a source; ``name`` is its file's, for errors.

    Raises:
        SyntaxError: it is not Python.
    """
    with undisturbed_parsing():
        return ast.parse(source, name)
