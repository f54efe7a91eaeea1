"""Versions of adapters, as people write them: by a name, or by the beginning of a digest."""

import re
from collections.abc import Callable
from typing import Any

from cluster.errors import AdapterNotFound, ConfigError
from deployments.cli.toolkit.client import BraidClient

ROUTES = "/admin/v1/adapters"
SWITCH_PATH = "switch"
"""Below a name's path: switches the name to a version."""
WHOLE_DIGEST = 64  # characters
BEGINNING = re.compile("[0-9a-f]{4,63}")
"""Matches the beginning of a digest; shorter ones are mistyped names."""


def full_digest(client: BraidClient, beginning: str) -> str:
    """Find the one registered version that begins so; a whole digest is returned unchanged.

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
    """Ask about a name, or else about the one version whose digest begins so.

    The server decides which of them it is, as it also knows the names that are being added.

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
