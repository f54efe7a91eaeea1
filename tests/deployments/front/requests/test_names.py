"""Checks what `model` and `adapters` mean."""

import pytest

from cluster.errors import RequestError
from deployments.front.requests.names import ModelNames
from router_service.routing_request import (
    AdapterRequest,
    BaseModelRequest,
    MixtureRequest,
    MixtureTerm,
    RouterRequest,
    RoutingRequest,
)

NAMES = ModelNames("org/base-1B")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("org/base-1B", BaseModelRequest()),
        ("base-1B", BaseModelRequest()),
        ("sql", AdapterRequest("sql")),
        ("org/base-1B:sql", AdapterRequest("sql")),
        ("base-1B:sql", AdapterRequest("sql")),
        ("auto", RouterRequest()),
        ("auto:dlp", RouterRequest("dlp")),
        ("auto:", RouterRequest("")),
        ("base-1B-instruct", AdapterRequest("base-1B-instruct")),
    ],
)
def test_model_names(model: str, expected: RoutingRequest) -> None:
    assert NAMES.routing_request(model, None) == expected


@pytest.mark.parametrize("model", ["base-1B", "org/base-1B", "auto"])
def test_a_mixture_goes_with_the_base(model: str) -> None:
    terms = [MixtureTerm("a", 0.7), MixtureTerm("b", -0.3)]
    expected = MixtureRequest((MixtureTerm("a", 0.7), MixtureTerm("b", -0.3)))
    assert NAMES.routing_request(model, terms) == expected


@pytest.mark.parametrize("model", ["sql", "auto:dlp"])
def test_a_mixture_beside_another_choice_is_refused(model: str) -> None:
    with pytest.raises(RequestError, match="explicit mixture") as caught:
        NAMES.routing_request(model, [MixtureTerm("a", 1.0)])
    assert caught.value.param == "adapters"
