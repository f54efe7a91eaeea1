"""Checks where a key may be, and that two must not differ."""

import pytest
from starlette.datastructures import Headers

from cluster.errors import AuthenticationFailed
from deployments.front.http.key_headers import authorization_of

BEARER = ("authorization", "Bearer k")


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.encode(), value.encode()) for name, value in pairs])


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        ([], None),
        ([BEARER], "Bearer k"),
        ([("x-api-key", "k")], "Bearer k"),
        ([("api-key", "k")], "Bearer k"),
        ([BEARER, ("x-api-key", "k"), ("api-key", " k ")], "Bearer k"),
        ([("authorization", "bearer  k"), ("api-key", "k")], "bearer  k"),
        ([("authorization", "Basic abc")], "Basic abc"),
    ],
)
def test_a_key_is_found(pairs: list[tuple[str, str]], found: str | None) -> None:
    assert authorization_of(headers(*pairs)) == found


@pytest.mark.parametrize(
    "pairs",
    [
        [BEARER, ("x-api-key", "other")],
        [("x-api-key", "k"), ("api-key", "other")],
        [BEARER, ("authorization", "Bearer other")],
        [("authorization", "Basic k"), ("api-key", "k")],
        [BEARER, ("x-api-key", "")],
    ],
)
def test_two_that_differ_are_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(AuthenticationFailed, match="x-api-key"):
        authorization_of(headers(*pairs))
