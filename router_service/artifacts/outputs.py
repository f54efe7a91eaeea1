"""Results in ``--out``: the folder is tried before the work starts, and replaced as a whole.

A folder has one result, of any kind. An earlier one is removed when the next is written, so that no
adapter is left with a router of other weights. Files that these commands never write stay.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from cluster.adapters.catalog import ALIAS_PATTERN, RESERVED_ALIASES
from cluster.adapters.format.manifest import WEIGHTS_FILE
from cluster.adapters.sources.files import KEPT_FILES as ADAPTER_FILES
from cluster.errors import ConfigError
from router_service.artifacts.artifact_store import KEPT_FILES as ROUTER_FILES
from router_service.artifacts.router_artifact import MANIFEST_FILE
from router_service.artifacts.whole_file import PARTIAL

CHECKPOINT_FILE = "checkpoint.safetensors"
"""A training's state; while it exists, the training has not ended."""

_WRITTEN = (*ADAPTER_FILES, *ROUTER_FILES)


def claim_folder(
    out: Path, *, overwrite: bool, resume: bool | None = None, reads: Iterable[Path] = ()
) -> None:
    """Check before the work that ``out`` can be written, and that nothing in it would be lost.

    Args:
        resume: continue from a checkpoint; None if the work has none.
        reads: folders that the work reads, none of which may be ``out``.

    Raises:
        ConfigError: the message says which of these fails, and which option helps.
    """
    check_folder(out)
    if out.resolve() in {path.resolve() for path in reads}:
        raise ConfigError(f"out: expected a folder of its own, found the adapter {out}")
    interrupted = (out / CHECKPOINT_FILE).exists()
    if overwrite or (resume and interrupted):
        return
    if interrupted:
        go_on = "" if resume is None else "continue with --resume, or "
        raise ConfigError(
            f"{out}: holds an interrupted training: {go_on}start over with --overwrite"
        )
    held = _held(out)
    if held and resume:
        raise ConfigError(
            f"{out}: the training is finished, it holds {held}; train it again with --overwrite"
        )
    if held:
        raise ConfigError(f"{out}: holds {held} already; --overwrite replaces it")


def check_folder(out: Path) -> None:
    """Raise ConfigError unless ``out`` is a folder that can be written, or can be made one.

    It is tried, not looked up: rights say nothing of a full or a special file system. What was made
    for the trial is removed.
    """
    made: list[Path] = []
    try:
        for folder in reversed((out, *out.parents)):
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise _refused("a folder that can be written", out, error) from error
    finally:
        with suppress(OSError):
            for folder in reversed(made):
                folder.rmdir()


def check_file(out: Path) -> None:
    """Raise ConfigError unless ``out`` is a file that can be written, or can be made one."""
    try:
        there = out.exists()
        with out.open("ab"):
            pass
        if not there:
            out.unlink()
    except OSError as error:
        raise _refused("a file that can be written", out, error) from error


def check_alias(alias: str, option: str) -> None:
    """Raise ConfigError unless an adapter can have this name when it is served."""
    if not re.fullmatch(ALIAS_PATTERN, alias) or alias.lower() in RESERVED_ALIASES:
        reserved = " or ".join(sorted(RESERVED_ALIASES))
        raise ConfigError(
            f"{option}: expected the name of an adapter ({ALIAS_PATTERN}, not {reserved}), "
            f"found {alias!r}"
        )


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Write a result to ``out`` in the block: an earlier one is removed first, a checkpoint last.

    Raises:
        ConfigError: the disk refuses.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in _WRITTEN:
            (out / name).unlink(missing_ok=True)
            (out / (name + PARTIAL)).unlink(missing_ok=True)
        with suppress(OSError):  # there is none, or it holds files of others
            (out / "encoder").rmdir()
        yield
        (out / CHECKPOINT_FILE).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise _refused("a folder that can be written", out, error) from error


def drop_checkpoint(out: Path) -> None:
    """Remove a training's state, and its folder where nothing else is in it."""
    (out / CHECKPOINT_FILE).unlink(missing_ok=True)
    with suppress(OSError):
        out.rmdir()


def _held(out: Path) -> str | None:
    """Name the result that a folder has; returns None if it has none."""
    if (out / WEIGHTS_FILE).exists():
        return "an adapter"
    return "a router" if (out / MANIFEST_FILE).exists() else None


def _refused(expected: str, out: Path, error: Exception) -> ConfigError:
    why = getattr(error, "strerror", None) or error
    return ConfigError(f"out: expected {expected}, found {out}: {why}")
