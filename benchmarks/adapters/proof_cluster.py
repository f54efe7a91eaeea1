"""The cluster of the proofs: `braid up`'s own, without the demo."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.config import AppConfig
from cluster.tenancy.quickstart import write_demo_tenants
from deployments.local import lifecycle
from deployments.local.local_state import StateDir
from testing.local_cluster import LocalCluster, show_phase

SOURCES = "sources"
"""In the state folder: adapters.source_dir."""
STORE = "adapters"
"""In the state folder: adapters.store_dir."""


def start_proof_cluster(
    folder: Path,
    model: Path | str,
    *,
    replicas: int = 2,
    rights: Mapping[str, Sequence[str]] | None = None,
    **fields: Mapping[str, Any],
) -> LocalCluster:
    """Start a cluster and wait until every replica takes requests.

    Args:
        rights: adapters of each tenant.
        fields: sections of ``AppConfig``.

    Raises:
        StartFailed: it did not come up.
    """

    def make_config(state: StateDir, port: int) -> AppConfig:
        sources = sources_of(state)
        sources.mkdir(exist_ok=True)
        sections: dict[str, Mapping[str, Any]] = {
            "front": {"port": port},
            "replica": {"replicas": replicas},
            "engine": {"threads": lifecycle.default_threads(replicas)},
            "adapters": {"source_dir": sources},
        }
        for name, values in fields.items():
            sections[name] = {**sections.get(name, {}), **values}
        write_demo_tenants(state.tenants, state.keys, rights or {}, secrets.token_bytes)
        return AppConfig.model_validate(
            {"model": str(model), "tenants_file": state.tenants, **sections}
        )

    return LocalCluster.start(folder, make_config, show_phase)


def sources_of(state: StateDir) -> Path:
    """Name the folder under which adapters to be added may lie."""
    return state.root / SOURCES


def stored_in(state: StateDir) -> list[str]:
    """List everything in the store.

    Its upper folders, which stay once made, and the registry's own copy are left out.
    """
    store = state.root / STORE
    if not store.is_dir():
        return []
    return sorted(str(path.relative_to(store)) for path in store.rglob("*") if path.parent != store)
