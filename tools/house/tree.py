"""Reads the Python files of a working tree or of a commit."""

import ast
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.python_syntax import parse_python

TESTS = "tests"


@dataclass(frozen=True)
class Module:
    """A parsed file.

    Attributes:
        path: relative to the root, with slashes.
        name: as it is imported; a package's is its folder's.
    """

    path: str
    name: str
    source: str
    tree: ast.Module

    @property
    def folder(self) -> str:
        """The folder that holds it."""
        return self.path.rpartition("/")[0]

    @property
    def top(self) -> str:
        """The first folder of its path."""
        return self.path.partition("/")[0]

    @property
    def lines(self) -> int:
        """Lines of the file."""
        return self.source.count("\n")


@contextmanager
def checked_out(root: Path, revision: str | None) -> Iterator[Path]:
    """Give a folder with the files of a commit, or ``root`` itself for the working tree.

    Raises:
        ValueError: git does not know the revision.
    """
    if revision is None:
        yield root
        return
    command = ["git", "archive", "--format=tar", revision]
    done = subprocess.run(command, cwd=root, capture_output=True)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise ValueError(f"--rev {revision}: expected a commit that git knows; git says: {said}")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def read_modules(root: Path) -> list[Module]:
    """Read the Python files of every top folder, sorted by path; hidden folders are left out."""
    found = []
    for path in sorted(root.glob("[!.]*/**/*.py")):
        parts = path.relative_to(root).parts
        if any(part.startswith(".") or part in {"build", "dist"} for part in parts):
            continue
        source = path.read_text(encoding="utf-8")
        relative = "/".join(parts)
        names = parts[:-1] if parts[-1] == "__init__.py" else (*parts[:-1], path.stem)
        found.append(Module(relative, ".".join(names), source, parse_python(source, relative)))
    return found
