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
        """Create the folder where it does not exist.

        Raises:
            ConfigError: it cannot be created or belongs to somebody else.
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
        """Demo tenants: ids, key hashes, rights."""
        return self.root / "tenants.yaml"

    @property
    def keys(self) -> Path:
        """Demo tenants' keys in clear; mode 0600."""
        return self.root / "keys.json"

    @property
    def run(self) -> Path:
        """What the supervisor is to start: the application's configuration. Mode 0600."""
        return self.root / "run.json"

    @property
    def status(self) -> Path:
        """What the supervisor says about itself: pid, phase, address."""
        return self.root / "status.json"

    @property
    def lock(self) -> Path:
        """Held while a cluster is being started."""
        return self.root / "up.lock"

    @property
    def redis_url(self) -> Path:
        """Address and password of the embedded server; mode 0600."""
        return self.root / "redis-url"

    @property
    def log(self) -> Path:
        """The supervisor's log."""
        return self.root / "logs" / "supervisor.log"

    @property
    def cluster_log(self) -> Path:
        """The log of fronts, replicas and the controller: a JSON object a line."""
        return self.root / "logs" / "braid.log"

    @property
    def valkey(self) -> Path:
        """The embedded server's folder: its data and log."""
        return self.root / "valkey"

    @property
    def ray_token(self) -> Path:
        """What callers of the local Ray must know; mode 0600."""
        return self.root / "ray-token"

    @property
    def ray_sessions(self) -> Path:
        """Logs and sockets of the local Ray's sessions, the last one and the one before."""
        return self.root / "ray"

    @property
    def ray_tables(self) -> Path:
        """What the local Ray's control service knows; a new node begins with none."""
        return self.root / "ray-tables"

    @property
    def adapter_store(self) -> Path:
        """Files of the adapters that were added, and the journal of their names."""
        return self.root / "adapters"

    @property
    def sources(self) -> Path:
        """Folders in it may be named to be added as adapters; its owner puts them there."""
        return self.root / "sources"

    def signing_key(self) -> str:
        """The key that signs decisions; made at first use."""
        path = self.root / "signing.key"
        if not path.exists():
            write_private(path, secrets.token_hex(32))
        return path.read_text().strip()


def read_json(path: Path) -> dict[str, object] | None:
    """The object in a JSON file, or None where there is no such file.

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
