"""The environment of vLLM: a folder of Python packages of its own, as they need other versions.

``ROOT/vllm`` is a link to the environment in use, ``ROOT/vllm-<build>-<key>``. An environment
counts as made only once its stamp is written, which is the last step.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.private_file import write_private

NAME = "vllm"
INSTALL = "braid engine install vllm"
PLUGIN_MODULE = "vllm_weighted_lora"
_HERE = Path(__file__).resolve().parent
_STAMP = "braid-engine.json"
_KEY_CHARACTERS = 12
_NOT_SOURCE = {"__pycache__", "build", "dist", "tests"}


@dataclass(frozen=True, slots=True)
class Build:
    """One of vLLM's distributions, and what it takes."""

    device: str  # "cpu" or "cuda"
    lock: Path  # of all its packages
    room: int  # bytes of disk while it is installed, downloads included

    def key(self) -> str:
        """Return what the packages of an environment depend on, as a digest."""
        python = "{}.{}".format(*sys.version_info)
        text = python.encode() + self.lock.read_bytes()
        return hashlib.sha256(text).hexdigest()[:_KEY_CHARACTERS]

    def folder(self, root: Path) -> Path:
        """Return the environment's folder."""
        return root / f"{NAME}-{self.device}-{self.key()}"


CPU = Build("cpu", _HERE / "vllm-cpu.lock", room=12 * 2**30)
CUDA = Build("cuda", _HERE / "vllm-cuda.lock", room=30 * 2**30)


@dataclass(frozen=True, slots=True)
class Stamp:
    """The facts of an environment that is whole."""

    device: str
    key: str  # of its packages
    plugin: str  # digest of the plugin's source; "": none
    vllm: str
    torch: str

    @classmethod
    def read(cls, environment: Path) -> Stamp | None:
        """Read an environment's stamp, or return None if it is not whole."""
        try:
            values: dict[str, Any] = json.loads((environment / _STAMP).read_text())
            return cls(**values) if python_of(environment).exists() else None
        except (OSError, ValueError, TypeError):
            return None

    def write(self, environment: Path) -> None:
        """Mark an environment as whole."""
        write_private(environment / _STAMP, json.dumps(asdict(self), indent=2))


def find(root: Path) -> tuple[Stamp | None, bool]:
    """Return the facts of the environment in use, None if there is none; and whether it is what
    this Braid would make."""
    stamp = Stamp.read(root / NAME)
    if stamp is None:
        return None, False
    build = CUDA if stamp.device == CUDA.device else CPU
    current = stamp.key == build.key() and stamp.plugin == plugin_digest(plugin_source())
    return stamp, current


def unmark(environment: Path) -> None:
    """Remove an environment's stamp, before it is changed."""
    (environment / _STAMP).unlink(missing_ok=True)


def python_of(environment: Path) -> Path:
    """Return the path of an environment's Python."""
    return environment / "bin" / "python"


def plugin_source() -> Path | None:
    """Find the source of vLLM's plugin: in the checkout, or where a wheel of Braid keeps it."""
    for folder in (_HERE.parents[1] / "plugins" / NAME, _HERE / "plugin"):
        if (folder / "pyproject.toml").is_file():
            return folder
    return None


def plugin_files(source: Path) -> list[Path]:
    """List the files that the plugin is built from, relative to its folder."""
    return sorted(
        path.relative_to(source)
        for path in source.rglob("*")
        if path.is_file()
        and not any(
            part in _NOT_SOURCE or part.startswith(".") or part.endswith(".egg-info")
            for part in path.relative_to(source).parts
        )
    )


def plugin_digest(source: Path | None) -> str:
    """Return the digest of the plugin's files; "" if there is no plugin."""
    if source is None:
        return ""
    digest = hashlib.sha256()
    for path in plugin_files(source):
        digest.update(f"{path}\0".encode() + hashlib.sha256((source / path).read_bytes()).digest())
    return digest.hexdigest()[:_KEY_CHARACTERS]
