"""Selects the earlier user turns that a router reads and its decision depends on."""

import json
from collections.abc import Sequence
from typing import cast

from router_service.routers.base import (
    ConversationRouter,
    ConversationSentenceRouter,
    PromptRouter,
    RoutedMixture,
    SentenceRouter,
)


def turns_read(router: PromptRouter, earlier: Sequence[str]) -> tuple[str, ...]:
    """Return the turns before the last one that the router reads, the oldest first."""
    return tuple(earlier[-router.declares.history :]) if router.declares.history else ()


def digested_with(digested: str, read: Sequence[str]) -> str:
    """Add the turns read to what a decision depends on; nothing is added if none is."""
    return json.dumps(["turns", digested, *read]) if read else digested


def route_turns(
    router: PromptRouter, text: str, read: Sequence[str], allowed: frozenset[str]
) -> RoutedMixture:
    """Run a router on a text, after the turns that it reads."""
    if not read:
        return router.route(text, allowed)
    return cast(ConversationRouter, router).route(text, allowed, read)


def reroute_turns(
    router: SentenceRouter,
    prompt: str,
    answer: str,
    read: Sequence[str],
    allowed: frozenset[str],
) -> RoutedMixture:
    """Run a router on what follows ``answer``, after the turns that it reads."""
    if not read:
        return router.reroute(prompt, answer, allowed)
    return cast(ConversationSentenceRouter, router).reroute(prompt, answer, allowed, read)
