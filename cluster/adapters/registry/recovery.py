"""A registry that has lost its data, put together again from the journal and the stored files.

What is there already stands: processes that start over a new registry bring the configured folder
in at once, and an operator may be faster than the recovery.
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
"""Versions that the store has, as they would be registered."""


def identify(view: RegistryView, identity: str) -> Transaction:
    """Mark a registry as begun, or as recovered; one that is marked stays as it is."""
    transaction = Transaction(view)
    if view.identity is None:
        transaction.put(IDENTITY, identity.encode())
    return transaction


def restore_name(
    view: RegistryView, name: Name, journal: Journal, stored: Stored, now: float
) -> Transaction:
    """Bring a name back with as much of its history as there are files for.

    Nothing changes where an operator has made it anew, where the configured folder now gives it
    other bytes than before, and where none of its versions is left.
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
    """Bring routers back, and take away what the folder gave and an operator had removed."""
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


def condemn(view: RegistryView, orphan: AdapterVersion, now: float) -> Transaction:
    """Register files that nobody knows as being removed: from here on they cannot be added."""
    transaction = Transaction(view)
    if orphan.digest not in view.versions:
        deleting = VersionState.DELETING
        transaction.put_version(replace(orphan, state=deleting, changed_at=now))
    else:
        transaction.require(VERSION + orphan.digest)
    return transaction


def _is_as_the_folder_left_it(view: RegistryView, live: Name, journal: Journal) -> bool:
    """Whether a name is nobody's doing but the folder's, which gives what it gave before."""
    untouched = all(step.by == BY_CONFIG for step in live.history)
    same = view.folder.get(live.alias) == journal.folder.get(live.alias)
    return live.owner == SHARED_OWNER and untouched and same
