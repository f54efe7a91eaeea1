"""Requests for activated LoRAs: "v" applies from the prompt's second token on, "w" never."""

import itertools

import pytest

from cluster.domain.request import FinishReason
from deployments.link.link_messages import SpanStart
from tests.support.request_rig import Rig

PROMPT = 3


def runs(rig: Rig, name: str) -> list[tuple[str, int]]:
    """Return the adapters of each run of tokens, and for how many tokens.

    Whenever a token was computed it was with the same.
    """
    found: dict[int, str] = {}
    for token, names in rig.runner.computed[name]:
        assert found.setdefault(token, names) == names
    ordered = [names for _, names in sorted(found.items())]
    return [(key, len(list(group))) for key, group in itertools.groupby(ordered)]


@pytest.mark.parametrize(
    ("adapters", "expected"),
    [
        ("v", [("", 1), ("v", 5)]),
        ("w", [("", 6)]),
        ("av", [("a", 1), ("av", 5)]),
        ("aw", [("a", 6)]),
    ],
)
async def test_it_applies_from_its_invocation_on(make_rig, adapters: str, expected: list) -> None:
    rig = make_rig()
    name = rig.submit(adapters, max_tokens=4)
    rig.runner.gate.release(100)
    assert (await rig.end(name)).finish_reason is FinishReason.LENGTH
    assert runs(rig, name) == expected
    assert rig.starts(name) == []


async def test_elsewhere_it_is_cut_at_the_same_token(make_rig) -> None:
    rig = make_rig(slots=3)
    spans = (SpanStart(2, b"t:w"), SpanStart(3, b"t:av"))
    name = rig.submit("v", max_tokens=6, resumed=(2, 3, 9, 9), spans=spans)
    rig.runner.gate.release(100)
    await rig.end(name)
    assert runs(rig, name) == [("", 1), ("v", PROMPT + 1), ("", 1), ("av", 2)]


@pytest.mark.parametrize(("adapters", "then"), [("v", "v"), ("w", ""), ("aw", "a")])
async def test_a_sentence_gets_what_the_prompt_invokes(make_rig, adapters: str, then: str) -> None:
    rig = make_rig(slots=3)
    name = rig.submit("b", max_tokens=8)
    await rig.step(name, 2)
    rig.reroute(name, adapters, after=4)
    await rig.until(lambda: next(iter(rig.book._live.values())).coming.task.done())
    rig.runner.gate.release(100)
    await rig.end(name)
    assert rig.starts(name) == [4]
    assert runs(rig, name) == [("b", PROMPT + 4), (then, 3)]
    assert rig.book.rerouting.counters.reroutes_applied == 1
