"""Defines a router kind of its own, builds it as an application does, and asks it.

python examples/own_router.py "select all customers"    # CONTRIBUTING.md: how to serve it
"""

import sys
from collections.abc import Mapping

from cluster.config import RouterConfig, Section
from cluster.domain.decision import Granularity, tagged_digest
from router_service.router_kinds import default_registry
from router_service.routers.base import Declaration, Need, RoutedMixture, Stage
from router_service.routers.kind import RouterContext, RouterKind


class KeywordOptions(Section):
    """Words by adapter; an unknown option is refused by name."""

    words: Mapping[str, tuple[str, ...]]


class KeywordRouter:
    """Weighs each adapter by the number of its words in the prompt."""

    declares = Declaration(Stage.TEXT, Granularity.REQUEST, needs=frozenset({Need.TEXT}))

    def __init__(self, name: str, words: Mapping[str, tuple[str, ...]]) -> None:
        self.name = name
        self.candidates = tuple(sorted(words))
        self.version = tagged_digest(*((a, " ".join(words[a]).encode()) for a in self.candidates))
        self._words = words

    def route(self, text: str, allowed: frozenset[str]) -> RoutedMixture:
        """Choose among ``allowed``; the same text gives the same answer."""
        said = text.lower().split()
        counts = {a: sum(said.count(word) for word in self._words[a]) for a in sorted(allowed)}
        total = sum(counts.values())  # of 0 nothing is kept: the base answers alone
        return RoutedMixture(tuple((a, n / total) for a, n in counts.items() if n), ())


def build(config: RouterConfig, options: KeywordOptions, _: RouterContext) -> KeywordRouter:
    """Build one router; the registry has checked the options."""
    return KeywordRouter(config.name, options.words)


def main(prompt: str = "select the customers, every day at noon") -> RoutedMixture:
    """Build the router from a configuration, and route one prompt."""
    kinds = default_registry()
    kinds.register(RouterKind("keyword", KeywordOptions, build))
    options = {"words": {"sql": ["select", "table"], "cron": ["every", "noon"]}}
    config = RouterConfig(name="words", kind="keyword", options=options)
    router = kinds.build(config, RouterContext(frozenset({"sql", "cron"}), max_mixture=4))
    mixture = router.route(prompt, frozenset(router.candidates))
    print("mixture:", *(f"{alias} {weight:.2f}" for alias, weight in mixture.weights))
    return mixture


if __name__ == "__main__":
    main(*sys.argv[1:])
