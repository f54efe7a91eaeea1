"""Turns changes of the registered routers into transactions, as ``operations`` does."""

import re
from dataclasses import replace

from cluster.adapters.catalog import ALIAS_PATTERN
from cluster.adapters.registry.operations import Transaction
from cluster.adapters.registry.records import ROUTER, RouterRecord, encode
from cluster.adapters.registry.registry_view import RegistryView
from cluster.errors import RouterConflict, RouterError, RouterNotFound


def check_router(view: RegistryView, name: str, *, replaces: bool) -> None:
    """Refuse a name that is malformed, or taken by a router that must not be replaced.

    Raises:
        RouterError: malformed.
        RouterConflict: it exists.
    """
    if not re.fullmatch(ALIAS_PATTERN, name):
        raise RouterError(f"a name must match {ALIAS_PATTERN}, found {name!r}", param="name")
    if not replaces and name in view.routers:
        raise conflict(name)


def conflict(name: str) -> RouterConflict:
    """Build the error for a name that exists."""
    return RouterConflict(
        f"the router {name!r} exists already; send replace to put this one in its place",
        param="name",
    )


def put_router(view: RegistryView, router: RouterRecord, *, replaces: bool) -> Transaction:
    """Register a router, or replace the one of its name.

    Raises:
        RouterError, RouterConflict: see ``check_router``.
    """
    check_router(view, router.name, replaces=replaces)
    before = view.routers.get(router.name)
    if before is not None:
        router = replace(router, added_at=before.added_at)
    transaction = Transaction(view)
    transaction.put(ROUTER + router.name, encode(router))
    return transaction


def remove_router(view: RegistryView, name: str) -> Transaction:
    """Remove a router.

    Raises:
        RouterNotFound: there is none.
    """
    if name not in view.routers:
        raise RouterNotFound(f"no router {name!r} has been added", param="name")
    transaction = Transaction(view)
    transaction.put(ROUTER + name, None)
    return transaction
