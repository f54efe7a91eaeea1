"""Restores a registry that has lost its data, from the journal and the stored files.

Records that exist already stand: processes that start with a new registry register the configured
folder at once, and an operator may be faster than the recovery.
"""

from collections.abc import Mapping
from dataclasses import replace

from cluster.adapters.registry.journal import Journal
from cluster.adapters.registry.operations import BY_CONFIG, Transaction
from cluster.adapters.registry.records import (
    FOLDER,
    IDENTITY,
    ROUTER,
    VERSION,
    AdapterVersion,
    Name,
    VersionState,
    encode,
    name_id,
)
from cluster.adapters.registry.registry_view import RegistryView
from cluster.domain.adapter import SHARED_OWNER
from cluster.domain.ids import AdapterDigest

Stored = Mapping[AdapterDigest, AdapterVersion]
"""Versions in the store, as they would be registered."""


def identify(view: RegistryView, identity: str) -> Transaction:
    """Give a registry its identity once it is new or recovered; does nothing if it has one."""
    transaction = Transaction(view)
    if view.identity is None:
        transaction.put(IDENTITY, identity.encode())
    return transaction


def restore_name(
    view: RegistryView, name: Name, journal: Journal, stored: Stored, now: float
) -> Transaction:
    """Restore a name with the part of its history that there are files for.

    Does nothing if an operator has created it again, if the configured folder now gives it other
    bytes than before, or if none of its versions is left.
    """
    transaction = Transaction(view)
    live = view.names.get(name.id)
    if live is not None and not _is_as_the_folder_left_it(view, live, journal):
        return transaction
    steps = tuple(s for s in name.history if s.digest in view.versions or s.digest in stored)
    if not steps:
        return transaction
    for digest in sorted({step.digest for step in steps} - view.versions.keys()):
        transaction.put_version(stored[digest])
    transaction.put_name(replace(name, history=steps), now)
    return transaction


def restore_rest(view: RegistryView, journal: Journal, now: float) -> Transaction:
    """Restore routers, and remove names that the folder gave and an operator had removed."""
    transaction = Transaction(view)
    for router in journal.routers:
        if router.name not in view.routers:
            transaction.put(ROUTER + router.name, encode(router))
    kept = {name.id for name in journal.names}
    for alias in journal.folder:
        live = view.names.get(name_id(SHARED_OWNER, alias))
        if live is None or live.id in kept:
            continue
        if _is_as_the_folder_left_it(view, live, journal):
            transaction.require(FOLDER + alias)
            transaction.remove_name(live, now)
    return transaction


def collect_orphan(view: RegistryView, orphan: AdapterVersion, now: float) -> Transaction:
    """Register files without a record as being collected, so that they cannot be added."""
    transaction = Transaction(view)
    if orphan.digest not in view.versions:
        collecting = VersionState.COLLECTING
        transaction.put_version(replace(orphan, state=collecting, changed_at=now))
    else:
        transaction.require(VERSION + orphan.digest)
    return transaction


def _is_as_the_folder_left_it(view: RegistryView, live: Name, journal: Journal) -> bool:
    """Return whether only the folder has set a name, and gives the same bytes as before."""
    untouched = all(step.by == BY_CONFIG for step in live.history)
    same = view.folder.get(live.alias) == journal.folder.get(live.alias)
    return live.owner == SHARED_OWNER and untouched and same
