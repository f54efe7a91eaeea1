"""Adapters that a local cluster has registered, read from its store before it runs."""

from collections.abc import Mapping
from pathlib import Path

from cluster.config import AppConfig
from cluster.domain.adapter import SHARED_OWNER, AdapterEntry, AdapterKey
from cluster.errors import AdapterError, ConfigError
from deployments.local.local_state import StateDir


def registered_adapters(config: AppConfig, state: StateDir) -> Mapping[str, AdapterEntry]:
    """Return the shared adapters that were added to the cluster of this state folder, by alias.

    Those of the configured folder are not among them, unless their names were switched.

    Raises:
        ConfigError: the journal cannot be read.
    """
    # Kept from the imports of ``braid --help``: numpy and the client of Redis.
    from cluster.adapters.registry.journal import JournalFile
    from cluster.adapters.registry.redis_store import registry_name
    from deployments.adapter_follower import NO_BASE, content_store

    adapters = config.adapters
    if adapters.store_dir is None:
        adapters = adapters.model_copy(update={"store_dir": state.adapter_store})
    store = content_store(adapters, NO_BASE)
    if store is None:
        return {}
    found: dict[str, AdapterEntry] = {}
    try:
        journal = JournalFile(store.root, registry_name(_model_id(config.model))).read()
        for name in () if journal is None else journal.names:
            stored = store.get(name.digest) if name.owner == SHARED_OWNER else None
            if stored is not None:
                key = AdapterKey(name.owner, name.alias, name.digest)
                found[name.alias] = AdapterEntry(
                    key,
                    stored.manifest,
                    str(stored.path),
                    stored.tags,
                    stored.notes,
                    stored.base_check,
                )
    except AdapterError as error:
        raise ConfigError(f"{store.root}: {error.message}") from error
    return found


def _model_id(model: str) -> str:
    """Return the id as ``resolve_model`` does, without looking for its weights."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model
