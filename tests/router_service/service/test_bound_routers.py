"""Decisions and their routers while adapters and routers come, change and go."""

from typing import Any

import pytest

from cluster.domain.decision import DecisionSource
from cluster.domain.ids import TenantId
from cluster.errors import (
    ModelNotFound,
    RouterOutdated,
)
from router_service.routers.base import RoutedMixture, RouterFailed
from router_service.routing_request import RouterRequest
from router_service.service import RoutingService
from tests.support.word_routers import WordRouter, weights_of

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
AUTO = RouterRequest()


async def test_a_new_router_version_or_version_is_not_answered_by_an_old_decision(
    service: RoutingService, router: WordRouter, directory: Any, adapter_key: Any
) -> None:
    await service.decide(ACME, AUTO, "sql")
    router.version = "v2"
    assert (await service.decide(ACME, AUTO, "sql")).source is DecisionSource.COMPUTED
    directory.keys[ACME]["sql"] = adapter_key("sql", content="retrained")
    fresh = await service.decide(ACME, AUTO, "sql")
    assert fresh.source is DecisionSource.COMPUTED
    assert fresh.decision.mixture[0].key == adapter_key("sql", content="retrained")


async def test_a_router_goes_on_without_what_was_removed(
    service: RoutingService, directory: Any
) -> None:
    del directory.keys[ACME]["cron"]
    decided = await service.decide(ACME, AUTO, "sql and cron")
    assert weights_of(decided) == {"sql": 1.0}


async def test_a_router_bound_to_a_version_knows_no_other(
    make_service: Any, flaky_store: Any, directory: Any, adapter_key: Any
) -> None:
    made_for = {"sql": directory.keys[ACME]["sql"].digest, "cron": "of another time"}
    bound = make_service(flaky_store, bound={"words": made_for})
    assert weights_of(await bound.decide(ACME, AUTO, "sql and cron")) == {"sql": 1.0}
    directory.keys[ACME]["sql"] = adapter_key("sql", content="retrained")
    assert weights_of(await bound.decide(ACME, AUTO, "sql and cron")) == {}
    other = await bound.decide(ACME, RouterRequest("second"), "sql and cron")
    assert weights_of(other) == {"sql": 0.5, "cron": 0.5}


class AllOrNothing(WordRouter):
    """Cannot do without any of its adapters, like a gate."""

    candidates = ("cron", "sql")

    def route(self, text: str, allowed: frozenset[str]) -> RoutedMixture:
        if allowed != set(self.candidates):
            raise RouterFailed("one is missing")
        return RoutedMixture((("cron", 1.0), ("sql", 1.0)), ())


async def test_a_bound_router_keeps_its_version_through_a_switch(
    make_service: Any, flaky_store: Any, directory: Any, adapter_key: Any
) -> None:
    before = directory.keys[ACME]["sql"]
    service = make_service(flaky_store)
    service.use({"gate": AllOrNothing("gate")}, {"gate": {"sql": before.digest}})
    first = await service.decide(ACME, AUTO, "hello")
    directory.keys[ACME]["sql"] = adapter_key("sql", content="retrained")
    directory.kept[before.digest] = before
    again = await service.decide(ACME, AUTO, "hello")
    assert again.source is DecisionSource.STORED
    other = await service.decide(ACME, AUTO, "another")
    assert other.decision.digests == again.decision.digests == first.decision.digests
    assert before.digest in other.decision.digests


async def test_a_router_whose_version_is_gone_says_which(
    make_service: Any, flaky_store: Any, directory: Any, adapter_key: Any
) -> None:
    before = directory.keys[ACME]["sql"].digest
    service = make_service(flaky_store)
    service.use({"gate": AllOrNothing("gate")}, {"gate": {"sql": before}})
    directory.keys[ACME]["sql"] = now = adapter_key("sql", content="retrained")
    with pytest.raises(RouterOutdated, match="'gate'") as caught:
        await service.decide(ACME, AUTO, "hello")
    assert f"'sql' was {before[:12]} and is {now.digest[:12]}" in caught.value.message
    assert (caught.value.status, caught.value.code) == (409, "router_outdated")
    del directory.keys[ACME]["sql"]  # not there, or not the tenant's: no client learns which
    fallen = await service.decide(ACME, AUTO, "hello")
    assert fallen.source is DecisionSource.FALLBACK


async def test_routers_come_and_go(make_service: Any, flaky_store: Any) -> None:
    service = make_service(flaky_store)
    service.use({"new": WordRouter("new")}, {}, {"old": "its adapters have gone"})
    assert service.router_names == ("new",)
    assert (await service.decide(ACME, RouterRequest("new"), "sql")).decision.router == "new"
    with pytest.raises(RouterOutdated, match="its adapters have gone"):
        await service.decide(ACME, RouterRequest("old"), "sql")
    with pytest.raises(ModelNotFound, match="there are: new"):
        await service.decide(ACME, RouterRequest("words"), "sql")
