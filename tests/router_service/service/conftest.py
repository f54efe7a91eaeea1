"""Provides a routing service over a store that can be unreachable."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster.config import DecisionConfig
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.decision_store import DecisionStore
from router_service.service import RoutingService
from tests.support.manual_clock import ManualClock
from tests.support.word_routers import SentenceWords, WholePromptRouter, WordRouter


@pytest.fixture
def router() -> WordRouter:
    return WordRouter()


@pytest.fixture
def make_service(
    router: WordRouter,
    directory: Any,
    codec: DecisionCodec,
    clock: ManualClock,
    config: DecisionConfig,
) -> Callable[..., RoutingService]:
    def make(store: DecisionStore, **options: Any) -> RoutingService:
        return RoutingService(
            routers={
                "words": router,
                "second": WordRouter("second"),
                "whole": WholePromptRouter("whole"),
                "sentences": SentenceWords("sentences"),
            },
            store=store,
            directory=directory,
            codec=codec,
            clock=clock,
            config=config,
            max_mixture=2,
            **options,
        )

    return make


@pytest.fixture
def service(make_service: Any, flaky_store: Any) -> RoutingService:
    service: RoutingService = make_service(flaky_store)
    return service
