"""API keys: how they are made, hashed and kept.

A key is shown to people once and kept by them; the server knows only its sha256. Keys have 256
random bits, so a plain hash cannot be searched.
"""

import base64
import hashlib
import json
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.errors import ConfigError
from cluster.private_file import write_private

KEY_PREFIX = "brd_"
KEY_BYTES = 32

RandomSource = Callable[[int], bytes]
"""``os.urandom``, or something repeatable in tests."""


def new_key(random_source: RandomSource) -> str:
    """Return a fresh key: ``brd_`` and 43 URL-safe characters."""
    return KEY_PREFIX + base64.urlsafe_b64encode(random_source(KEY_BYTES)).rstrip(b"=").decode()


def hash_key(key: str) -> str:
    """Return the form of a key in a tenants file: its sha256 in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> dict[str, str]:
    """Read tenant id -> key from a keys file.

    Raises:
        ConfigError: unreadable, malformed, or readable by anybody but its owner.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"{path}: expected mode 0600, found {mode:04o}: others may have read these keys"
            )
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise ConfigError(f"{path}: expected an object of tenant ids and keys")
    return content


def write_keys(path: Path, keys: Mapping[str, str]) -> None:
    """Keep keys in a file of mode 0600, replaced in one step."""
    write_private(path, json.dumps(dict(keys), indent=2, sort_keys=True) + "\n")
