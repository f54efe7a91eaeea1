"""Counts what is in a JSON text before it is parsed, in a few passes at memory speed.

Everything outside of strings counts; where the text is not valid JSON the parser says so later.
"""

from cluster.errors import PayloadTooLarge
from deployments.front.http.limits import MAX_BODY_CONTAINERS, MAX_BODY_KEYS, MAX_BODY_VALUES

MAX_QUOTES = 2 * (MAX_BODY_KEYS + MAX_BODY_VALUES)


def check_counts(body: bytes | bytearray) -> None:
    """Refuse a body with more values, containers or keys than any request needs.

    Raises:
        PayloadTooLarge: the message has the bound that was passed.
    """
    if _fits(body):  # even with what is in its strings
        return
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > MAX_QUOTES:
        raise PayloadTooLarge(f"the body has more than {MAX_BODY_VALUES} values")
    outside = b"".join(plain.split(b'"')[::2])
    if outside.count(b",") >= MAX_BODY_VALUES:
        raise PayloadTooLarge(f"the body has more than {MAX_BODY_VALUES} values")
    if _containers(outside) > MAX_BODY_CONTAINERS:
        raise PayloadTooLarge(f"the body has more than {MAX_BODY_CONTAINERS} lists and objects")
    if outside.count(b":") > MAX_BODY_KEYS:
        raise PayloadTooLarge(f"the body has more than {MAX_BODY_KEYS} keys")


def values_at_most(body: bytes | bytearray, most: int) -> bool:
    """Tell that a body has few values, without looking at where its strings are."""
    return body.count(b",") + _containers(body) <= most


def _fits(text: bytes | bytearray) -> bool:
    return (
        text.count(b",") < MAX_BODY_VALUES
        and _containers(text) <= MAX_BODY_CONTAINERS
        and text.count(b":") <= MAX_BODY_KEYS
    )


def _containers(text: bytes | bytearray) -> int:
    return text.count(b"[") + text.count(b"{")
