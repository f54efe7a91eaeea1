"""The cluster that the proof asks: the demo's, with small queues and two more tenants."""

import json

import yaml

from cluster.config import AppConfig
from cluster.private_file import write_private
from cluster.tenancy.keys import hash_key
from deployments.local.local_state import StateDir
from deployments.local.quickstart import with_demo

TIME_LIMIT_S = 20.0
MAX_MODEL_LEN = 2048
LONG_TOKENS = MAX_MODEL_LEN - 200
ADAPTER = "sql"
EXTRA: dict[str, dict[str, object]] = {
    "limited": {"requests_per_minute": 3},
    "scraper": {"metrics": True},
}
"""Added to the demo's tenants."""


def proof_config(state: StateDir, port: int, replicas: int) -> AppConfig:
    """Make the application's configuration; writes the tenants' files."""
    config = AppConfig.model_validate(
        {
            "front": {"port": port, "request_timeout_s": TIME_LIMIT_S},
            "replica": {"replicas": replicas},
            "engine": {
                "threads": 1,
                "max_batch_size": 8,
                "max_queued": 8,
                "max_model_len": MAX_MODEL_LEN,
            },
        }
    )
    config = with_demo(config, state)
    add_tenants(state)
    return config


def add_tenants(state: StateDir) -> None:
    """Add the tenants of ``EXTRA`` to the tenants file, and their keys to the keys file."""
    keys = json.loads(state.keys.read_text()) | {name: f"key-of-{name}" for name in EXTRA}
    tenants = yaml.safe_load(state.tenants.read_text())["tenants"]
    tenants += [
        {"id": name, "keys": [hash_key(keys[name])], **fields} for name, fields in EXTRA.items()
    ]
    write_private(state.keys, json.dumps(keys))
    write_private(state.tenants, yaml.safe_dump({"tenants": tenants}))
