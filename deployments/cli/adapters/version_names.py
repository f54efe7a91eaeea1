"""Versions of adapters, as people write them: by a name, or by the beginning of a digest."""

import re
from collections.abc import Callable
from typing import Any

from cluster.errors import AdapterNotFound, ConfigError
from deployments.cli.client import BraidClient

ROUTES = "/admin/v1/adapters"
WHOLE_DIGEST = 64  # characters
BEGINNING = re.compile("[0-9a-f]{4,63}")
"""What may stand for a digest where a name may stand too; shorter ones are mistyped names."""


def full_digest(client: BraidClient, beginning: str) -> str:
    """The one registered version that begins so; a whole digest is taken as it is.

    Raises:
        ConfigError: none, or several.
    """
    if len(beginning) == WHOLE_DIGEST:
        return beginning
    found = _beginning_with(client, beginning)
    if not found:
        raise ConfigError(
            f"{beginning}: no version begins so; `braid adapters show NAME` lists those of a name"
        )
    return _only(found, beginning)


def ask_about(
    client: BraidClient, wanted: str, ask: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """The answer about a name, or else about the one version that begins so.

    The server says what is a name: it also knows those that are being added.

    Args:
        ask: sends the request for a name or a whole digest.

    Raises:
        AdapterNotFound: neither a name nor the beginning of a digest.
        ConfigError: several versions begin so.
    """
    try:
        return ask(wanted)
    except AdapterNotFound:
        found = _beginning_with(client, wanted) if BEGINNING.fullmatch(wanted) else []
        if not found:
            raise
    return ask(_only(found, wanted))


def _beginning_with(client: BraidClient, beginning: str) -> list[str]:
    listed = client.get(ROUTES)
    known: set[str] = {step["version"] for card in listed["data"] for step in card["history"]}
    known |= {card["version"] for card in listed["other_versions"]}
    return sorted(digest for digest in known if digest.startswith(beginning))


def _only(found: list[str], beginning: str) -> str:
    if len(found) > 1:
        raise ConfigError(f"{beginning}: {len(found)} versions begin so; give more digits")
    return found[0]
