"""Counting a JSON text before it is parsed: what is in strings does not count."""

import json

import pytest

from cluster.errors import PayloadTooLarge
from deployments.front.entry.body_scan import check_counts
from deployments.front.http.limits import MAX_BODY_CONTAINERS, MAX_BODY_KEYS, MAX_BODY_VALUES


@pytest.mark.parametrize(
    "body",
    [
        [1] * MAX_BODY_VALUES,
        [[]] * (MAX_BODY_CONTAINERS - 1),
        {str(n): n for n in range(MAX_BODY_KEYS)},
        "," * 2_000_000,
        '"' * 1_000_000 + ",[{:" * 200_000,
        "\\" * 1_000_001,
        {"a": ["\\", '"', ",[" * 300_000]},
    ],
)
def test_what_a_request_may_have_passes(body: object) -> None:
    check_counts(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ([1] * (MAX_BODY_VALUES + 1), "values"),
        ([[]] * MAX_BODY_CONTAINERS, "lists and objects"),
        ({str(n): n for n in range(MAX_BODY_KEYS + 1)}, "keys"),
        ({"\\": '"', "a": [1] * (MAX_BODY_VALUES + 1)}, "values"),
        ([""] * 1_000_000, "values"),
    ],
)
def test_more_is_refused(body: object, what: str) -> None:
    with pytest.raises(PayloadTooLarge, match=what):
        check_counts(json.dumps(body).encode())


def test_what_is_no_json_is_left_to_the_parser_or_refused() -> None:
    check_counts(b'{"a": "' + b"," * 300_000)
    check_counts(b"\xff\x00" * 100_000)
    with pytest.raises(PayloadTooLarge):
        check_counts(b"[" * 100_000)
