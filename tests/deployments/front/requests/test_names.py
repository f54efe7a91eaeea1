"""What `model` and `adapters` mean."""

import pytest

from cluster.errors import RequestError
from deployments.front.openai.wire import AdapterTerm
from deployments.front.requests.names import ModelNames
from router_service.wish import (
    AdapterWish,
    BaseWish,
    MixtureTerm,
    MixtureWish,
    RouterWish,
    RoutingWish,
)

NAMES = ModelNames("org/base-1B")


@pytest.mark.parametrize(
    ("model", "wish"),
    [
        ("org/base-1B", BaseWish()),
        ("base-1B", BaseWish()),
        ("sql", AdapterWish("sql")),
        ("org/base-1B:sql", AdapterWish("sql")),
        ("base-1B:sql", AdapterWish("sql")),
        ("auto", RouterWish()),
        ("auto:dlp", RouterWish("dlp")),
        ("auto:", RouterWish("")),
        ("base-1B-instruct", AdapterWish("base-1B-instruct")),
    ],
)
def test_model_names(model: str, wish: RoutingWish) -> None:
    assert NAMES.wish(model, None) == wish


@pytest.mark.parametrize("model", ["base-1B", "org/base-1B", "auto"])
def test_a_mixture_goes_with_the_base(model: str) -> None:
    terms = [AdapterTerm(name="a", weight=0.7), AdapterTerm(name="b", weight=-0.3)]
    expected = MixtureWish((MixtureTerm("a", 0.7), MixtureTerm("b", -0.3)))
    assert NAMES.wish(model, terms) == expected


@pytest.mark.parametrize("model", ["sql", "auto:dlp"])
def test_a_mixture_beside_another_choice_is_refused(model: str) -> None:
    with pytest.raises(RequestError, match="explicit mixture") as caught:
        NAMES.wish(model, [AdapterTerm(name="a")])
    assert caught.value.param == "adapters"
