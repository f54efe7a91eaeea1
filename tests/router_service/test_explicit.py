"""The caller's own mixture."""

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.domain.ids import TenantId
from cluster.errors import ModelNotFound, RequestError
from router_service.explicit import ExplicitMixture, mix_explicit, mixture_digest
from router_service.routing_request import (
    AdapterRequest,
    BaseModelRequest,
    MixtureRequest,
    MixtureTerm,
)

ACME = TenantId("acme")


def _mixture(*terms: tuple[str, float]) -> MixtureRequest:
    return MixtureRequest(tuple(MixtureTerm(alias, weight) for alias, weight in terms))


def test_the_base_is_an_empty_mixture(directory: Any) -> None:
    assert mix_explicit(BaseModelRequest(), ACME, directory, 8).mixture == ()


def test_one_adapter_has_weight_one(directory: Any) -> None:
    (term,) = mix_explicit(AdapterRequest("sql"), ACME, directory, 8).mixture
    assert (term.key.alias, term.weight) == ("sql", 1.0)


def test_a_mixture_keeps_exact_weights_sorted_by_digest(directory: Any) -> None:
    request = _mixture(("sql", 0.7), ("cron", -0.123456789), ("json", 3))
    mixed = mix_explicit(request, ACME, directory, 8).mixture
    assert {t.key.alias: t.weight for t in mixed} == {"sql": 0.7, "cron": -0.123456789, "json": 3.0}
    assert [t.key.digest for t in mixed] == sorted(t.key.digest for t in mixed)
    turned = MixtureRequest(tuple(reversed(request.terms)))
    assert mix_explicit(turned, ACME, directory, 8).mixture == mixed


@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_a_zero_weight_is_dropped_and_named(directory: Any, zero: float) -> None:
    mixed = mix_explicit(_mixture(("sql", 1.0), ("cron", zero)), ACME, directory, 1)
    assert [t.key.alias for t in mixed.mixture] == ["sql"]
    assert mixed.dropped == ("cron",)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, 1e39, 1000.5])
def test_a_weight_must_be_one_that_can_be_applied(directory: Any, weight: float) -> None:
    with pytest.raises(RequestError) as refusal:
        mix_explicit(_mixture(("cron", 1.0), ("sql", weight)), ACME, directory, 8)
    assert refusal.value.param == "adapters[1].weight"


def test_an_adapter_is_named_once(directory: Any) -> None:
    with pytest.raises(RequestError, match="'sql' is named twice") as refusal:
        mix_explicit(_mixture(("sql", 0.5), ("sql", 0.5)), ACME, directory, 8)
    assert refusal.value.param == "adapters[1].name"


def test_an_adapter_of_a_mixture_that_is_not_the_tenants_is_named_by_its_place(
    directory: Any,
) -> None:
    with pytest.raises(ModelNotFound, match="no adapter 'nowhere'") as refusal:
        mix_explicit(_mixture(("sql", 0.5), ("nowhere", 0.5)), ACME, directory, 8)
    assert refusal.value.param == "adapters[1].name"
    with pytest.raises(ModelNotFound) as alone:
        mix_explicit(AdapterRequest("nowhere"), ACME, directory, 8)
    assert alone.value.param == "model"


def test_two_aliases_of_one_version_are_one_adapter(directory: Any) -> None:
    keys = directory.keys[ACME]
    keys["sql-latest"] = keys["sql"]

    def mix(*terms: tuple[str, float]) -> Any:
        return mix_explicit(_mixture(*terms), ACME, directory, 1)

    mixed = mix(("sql", 0.5), ("sql-latest", 0.25))
    assert [(t.key, t.weight) for t in mixed.mixture] == [(keys["sql"], 0.75)]
    assert mix(("sql", 0.5), ("sql-latest", -0.5)) == ExplicitMixture((), ("sql",))
    with pytest.raises(RequestError, match="from -1000 to 1000") as refusal:
        mix(("sql", 800), ("sql-latest", 800))
    assert refusal.value.param == "adapters[1].weight"


def test_a_mixture_has_a_size_limit(directory: Any) -> None:
    with pytest.raises(RequestError, match="2 adapters, not 3"):
        mix_explicit(_mixture(("sql", 1), ("cron", 1), ("json", 1)), ACME, directory, 2)


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_another_tenants_adapter_is_not_found_whatever_its_weight(
    directory: Any, weight: float
) -> None:
    with pytest.raises(ModelNotFound):
        mix_explicit(_mixture(("cron", weight)), TenantId("globex"), directory, 8)


_weights = st.floats(-10, 10).filter(lambda weight: weight != 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(first=st.tuples(_weights, _weights), second=st.tuples(_weights, _weights))
def test_mixtures_have_equal_digests_exactly_when_they_are_equal(
    directory: Any, first: tuple[float, float], second: tuple[float, float]
) -> None:
    a, b = (
        mix_explicit(_mixture(("sql", w[0]), ("cron", w[1])), ACME, directory, 8).mixture
        for w in (first, second)
    )
    assert (mixture_digest(a) == mixture_digest(b)) == (a == b)
