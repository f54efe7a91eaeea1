"""The load of a recording is what its options say, and its prompts share what they should."""

import argparse

from benchmarks.placement.recording.record import alias_of, body_of, load_of

OPTIONS = argparse.Namespace(minutes=5.0, adapters=24, rotate_s=60.0, pairs=0.3, rate=2.0, seed=1)


def test_the_load_changes_and_asks_for_all_adapters() -> None:
    load = load_of(OPTIONS)
    assert 450 < len(load) < 750
    by_minute = [sum(60 * n <= one.at < 60 * (n + 1) for one in load) for n in range(5)]
    assert max(by_minute) > 2 * min(by_minute)
    assert {name for one in load for name in one.adapters} == {f"a{n:04d}" for n in range(24)}
    pairs = sum(len(one.adapters) == 2 for one in load) / len(load)
    assert 0.2 < pairs < 0.4


def test_a_body_asks_for_exactly_what_the_trace_has() -> None:
    for number, one in enumerate(load_of(OPTIONS)):
        body = body_of(one, "base", number)
        assert len(body["prompt"]) == one.prompt_tokens
        assert body["max_tokens"] == one.generated_tokens
        assert body["ignore_eos"]
        names = [term["name"] for term in body.get("adapters", ())] or [body["model"]]
        assert names == [alias_of(name) for name in one.adapters]


def test_prompts_share_what_their_chains_share() -> None:
    load = load_of(OPTIONS)
    bodies = [body_of(one, "base", number)["prompt"] for number, one in enumerate(load)]
    blocks: dict[int, list[int]] = {}
    again = 0
    for one, prompt in zip(load, bodies, strict=True):
        for index, block in enumerate(one.prefix):
            tokens = prompt[16 * index : 16 * (index + 1)]
            again += block in blocks
            assert blocks.setdefault(block, tokens) == tokens
    assert again > 0.3 * len(load)
