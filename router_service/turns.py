"""Earlier user turns of a conversation: which a router reads, and what its decision depends on."""

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
    """Of the turns before the last one, the oldest first, those that the router reads."""
    return tuple(earlier[-router.declares.history :]) if router.declares.history else ()


def digested_with(digested: str, read: Sequence[str]) -> str:
    """What a decision depends on besides ``digested``; that alone where no earlier turn is read."""
    return json.dumps(["turns", digested, *read]) if read else digested


def route_turns(
    router: PromptRouter, text: str, read: Sequence[str], allowed: frozenset[str]
) -> RoutedMixture:
    """The answer of a router to a text, after the turns that it reads."""
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
    """The answer of a router for what follows ``answer``, after the turns that it reads."""
    if not read:
        return router.reroute(prompt, answer, allowed)
    return cast(ConversationSentenceRouter, router).reroute(prompt, answer, allowed, read)
