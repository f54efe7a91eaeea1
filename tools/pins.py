"""The lock file's lines, and the machines that it covers."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("x86_64-manylinux_2_31", "aarch64-manylinux_2_31", "aarch64-apple-darwin")
"""Names that uv has for them; glibc 2.31 is that of Debian 11 and Ubuntu 20.04."""
MACHINES = frozenset({("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")})
"""The same as `platform.system()` and `platform.machine()` name them."""

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
