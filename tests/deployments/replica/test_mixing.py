"""Checks the way from a decision to what the engine receives."""

import dataclasses

import pytest

from cluster.domain.decision import Granularity, RoutingDecision, SiteWeights
from cluster.domain.ids import Slot
from cluster.engine.spans import Span
from cluster.errors import RequestError, RouterOutdated
from deployments.replica.mixing import DecisionMixing
from router_service.routers.kind import EnginePart
from tests.support.decisions import decision_over

WEIGHTS = SiteWeights(("model.layers.0.mlp.up_proj",), ((1.0,),))


class Part:
    """Stands for a gate or a router."""


def decision(granularity: Granularity, digests: str, version: str = "v1") -> RoutingDecision:
    return decision_over(digests, router="r", granularity=granularity, router_version=version)


@pytest.fixture
def mixing() -> DecisionMixing:
    parts = {
        "v1": EnginePart(("b", "c", "a"), gate=Part()),  # type: ignore[arg-type]
        "v2": EnginePart(("a",), router=Part()),  # type: ignore[arg-type]
    }
    return DecisionMixing(parts, "base", isolate_tenants=True)


def test_parts_are_named_by_version(mixing: DecisionMixing) -> None:
    parts = mixing.engine_parts()
    assert list(parts.gates) == ["v1"]
    assert list(parts.routers) == ["v2"]


def test_parts_come_and_go(mixing: DecisionMixing) -> None:
    made = decision(Granularity.TOKEN, "abc", "v3")
    parts = mixing.engine_parts()
    assert mixing.lacks(made)
    mixing.add("v3", EnginePart(("a", "b", "c"), gate=Part()))  # type: ignore[arg-type]
    assert not mixing.lacks(made)
    assert mixing.versions == {"v1", "v2", "v3"}
    assert set(parts.gates) == {"v1", "v3"}
    mixing.remove("v3")
    assert mixing.lacks(made)
    assert not mixing.lacks(decision(Granularity.REQUEST, "abc", "v3"))
    assert not mixing.lacks(decision(Granularity.TOKEN, "", "v3"))
    assert set(parts.gates) == {"v1"}


def test_a_static_mixture_goes_as_it_is(mixing: DecisionMixing) -> None:
    made = decision(Granularity.REQUEST, "ab")
    assert mixing.plan(made, [Slot(4), Slot(7)]) == (((4, 1.0), (7, 1.0)), None)
    assert mixing.plan(decision(Granularity.REQUEST, ""), []) == ((), None)


def test_a_gate_gets_its_adapters_in_its_own_order(mixing: DecisionMixing) -> None:
    adapters, planned = mixing.plan(decision(Granularity.TOKEN, "abc"), [Slot(1), Slot(2), Slot(3)])
    assert adapters == ((2, 1.0), (3, 1.0), (1, 1.0))
    assert planned is not None
    assert (planned.gate, planned.router, planned.is_pending) == ("v1", "", False)


def test_a_prompts_router_is_asked_until_it_has_answered(mixing: DecisionMixing) -> None:
    made = decision(Granularity.PROMPT, "a", "v2")
    _, planned = mixing.plan(made, [Slot(1)])
    assert planned is not None
    assert planned.is_pending
    assert planned.complete is not None
    known = dataclasses.replace(made, site_weights=WEIGHTS)
    _, repeated = mixing.plan(known, [Slot(1)])
    assert repeated is not None
    assert not repeated.is_pending
    assert repeated.site_weights == WEIGHTS
    # What the first request computes is found by the repeat, and by no one before it.
    assert planned.complete(WEIGHTS) == mixing.namespace(known) != mixing.namespace(made)


@pytest.mark.parametrize(
    ("digests", "version", "reason"),
    [
        ("abc", "v9", "router 'r' of version v9 is not served any more"),
        ("ab", "v1", "made for versions b, c, a .* not for a@a, b@b;"),
        ("abd", "v1", "made for versions b, c, a .* not for a@a, b@b, d@d;"),
    ],
)
def test_what_this_replica_cannot_weigh_is_refused(
    mixing: DecisionMixing, digests: str, version: str, reason: str
) -> None:
    made = decision(Granularity.TOKEN, digests, version)
    with pytest.raises(RouterOutdated, match=reason):
        mixing.plan(made, [Slot(i) for i in range(len(digests))])


def test_an_activated_lora_cuts_the_prompt(mixing: DecisionMixing) -> None:
    """Each stretch has the namespace of a decision on what applies there."""
    made = decision(Granularity.REQUEST, "abc")
    prompt, slots = (5, 6, 7, 8, 6, 7), [Slot(4), Slot(7), Slot(9)]
    spans, fused = mixing.spans(made, slots, prompt, [(), (6, 7), (9,)])
    assert fused is None
    assert spans == (
        Span(0, mixing.namespace(decision(Granularity.REQUEST, "a")), ((Slot(4), 1.0),)),
        Span(
            4,
            mixing.namespace(decision(Granularity.REQUEST, "ab")),
            ((Slot(4), 1.0), (Slot(7), 1.0)),
        ),
    )
    alone, _ = mixing.spans(decision(Granularity.REQUEST, "b"), [Slot(7)], prompt, [(6, 7)])
    base = mixing.namespace(decision(Granularity.REQUEST, ""))
    assert [(s.start, s.namespace == base, len(s.adapters)) for s in alone] == [
        (0, True, 0),
        (4, False, 1),
    ]


def test_ordinary_adapters_are_one_span(mixing: DecisionMixing) -> None:
    made = decision(Granularity.TOKEN, "abc")
    slots = [Slot(4), Slot(7), Slot(9)]
    spans, fused = mixing.spans(made, slots, (1, 2), [(), (), ()])
    adapters, expected = mixing.plan(made, slots)
    assert (spans, fused) == ((Span(0, mixing.namespace(made), adapters),), expected)


@pytest.mark.parametrize("prompt", [(6,), (1, 6), (1, 2)])
@pytest.mark.parametrize("granularity", [Granularity.TOKEN, Granularity.PROMPT])
def test_it_is_not_weighed_inside_the_engine(
    mixing: DecisionMixing, granularity: Granularity, prompt: tuple[int, ...]
) -> None:
    """The prompt may invoke it or not."""
    with pytest.raises(RequestError, match="'a' inside the model") as caught:
        mixing.spans(decision(granularity, "a", "v2"), [Slot(0)], prompt, [(6,)])
    assert caught.value.param == "model"
