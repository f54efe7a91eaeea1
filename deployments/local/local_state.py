"""The folder in which a local cluster keeps its keys, logs and process ids."""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cluster.config import AppConfig
from cluster.errors import ConfigError
from cluster.private_file import write_private

SECRETS = ("redis_url", "signing_key")
"""Entries of the configuration that only private files and environments hold."""


@dataclass(frozen=True, slots=True)
class StateDir:
    """Paths of a local cluster's files; secrets have mode 0600 in a folder of mode 0700."""

    root: Path

    @classmethod
    def open(cls, root: Path) -> "StateDir":
        """Create the folder if it does not exist.

        Raises:
            ConfigError: it cannot be created or belongs to another user.
        """
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            if root.stat().st_uid == os.getuid():
                root.chmod(0o700)
            (root / "logs").mkdir(exist_ok=True)
            (root / "valkey").mkdir(exist_ok=True)
            (root / "sources").mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"state folder {root} cannot be used: {error.strerror}; name another one with "
                "BRAID_STATE_DIR"
            ) from error
        return cls(root)

    @property
    def tenants(self) -> Path:
        """Return the path of the demo tenants: ids, key hashes, rights."""
        return self.root / "tenants.yaml"

    @property
    def keys(self) -> Path:
        """Return the path of the demo tenants' keys in clear; mode 0600."""
        return self.root / "keys.json"

    @property
    def run(self) -> Path:
        """Return the path of the configuration that the supervisor starts. Mode 0600."""
        return self.root / "run.json"

    @property
    def status(self) -> Path:
        """Return the path of the supervisor's report: pid, phase, address."""
        return self.root / "status.json"

    @property
    def lock(self) -> Path:
        """Return the path of the lock that is held while a cluster is being started."""
        return self.root / "up.lock"

    @property
    def redis_url(self) -> Path:
        """Return the path of the embedded server's address and password; mode 0600."""
        return self.root / "redis-url"

    @property
    def log(self) -> Path:
        """Return the path of the supervisor's log."""
        return self.root / "logs" / "supervisor.log"

    @property
    def cluster_log(self) -> Path:
        """Return the path of the actors' log: a JSON object a line."""
        return self.root / "logs" / "braid.log"

    @property
    def valkey(self) -> Path:
        """Return the embedded server's folder: its data and log."""
        return self.root / "valkey"

    @property
    def ray_token(self) -> Path:
        """Return the path of the token that callers of the local Ray need; mode 0600."""
        return self.root / "ray-token"

    @property
    def ray_sessions(self) -> Path:
        """Return the folder of logs and sockets of the local Ray's last two sessions."""
        return self.root / "ray"

    @property
    def ray_tables(self) -> Path:
        """Return the folder of the local Ray's control service; a new node empties it."""
        return self.root / "ray-tables"

    @property
    def adapter_store(self) -> Path:
        """Return the folder of added adapters' files and the journal of their names."""
        return self.root / "adapters"

    @property
    def sources(self) -> Path:
        """Return the folder whose subfolders may be named to be added as adapters."""
        return self.root / "sources"

    def signing_key(self) -> str:
        """Return the key that signs decisions; made at first use."""
        path = self.root / "signing.key"
        if not path.exists():
            write_private(path, secrets.token_hex(32))
        return path.read_text().strip()


def read_json(path: Path) -> dict[str, object] | None:
    """Return the object in a JSON file, or None if the file does not exist.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected an object, found {type(value).__name__}")
    return value


def write_run(state: StateDir, config: AppConfig) -> None:
    """Tell the supervisor what to start; secrets in clear, so the file is private."""
    values = config.model_dump(mode="json", exclude_unset=True)
    for secret in SECRETS:
        value = getattr(config, secret)
        if value is not None:
            values[secret] = value.get_secret_value()
    write_private(state.run, json.dumps(values, indent=2))
