"""Hours made from published shapes have those shapes, and pass through the importers."""

import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from cluster.errors import ConfigError
from cluster.simulation.traces.imports.formats import parse_azure, parse_burstgpt, parse_mooncake
from cluster.simulation.traces.imports.hours import (
    hour_like_azure,
    hour_like_burstgpt,
    hour_like_mooncake,
)


@pytest.mark.parametrize(
    ("service", "requests", "prompt", "answer"),
    [("conversation", 20_000, (1020, 1155), (129, 211)), ("code", 9_100, (1500, 2048), (13, 28))],
)
def test_an_azure_hour_has_the_published_medians_and_means(
    service: str, requests: int, prompt: tuple[int, int], answer: tuple[int, int]
) -> None:
    found = list(parse_azure(hour_like_azure(3, service=service), "hour"))
    assert len(found) == pytest.approx(requests, rel=0.35)  # its bursts are few
    prompts = [one.prompt_tokens for one in found]
    answers = [one.generated_tokens for one in found]
    assert statistics.median(prompts) == pytest.approx(prompt[0], rel=0.05)
    assert statistics.fmean(prompts) == pytest.approx(prompt[1], rel=0.1)
    assert statistics.median(answers) == pytest.approx(answer[0], rel=0.1)
    assert statistics.fmean(answers) == pytest.approx(answer[1], rel=0.35)


def test_a_burstgpt_hour_has_sessions_models_and_failures() -> None:
    found = list(parse_burstgpt(hour_like_burstgpt(3, duration_s=20_000), "hours"))
    assert len(found) / 20_000 == pytest.approx(0.5, rel=0.4)
    labels = Counter(one.label for one in found)
    assert labels["GPT-4"] / len(found) == pytest.approx(0.15, abs=0.05)
    failed = sum(not one.generated_tokens for one in found)
    assert failed / len(found) == pytest.approx(0.03, abs=0.01)
    assert all(one.at.is_integer() for one in found)
    assert max(Counter(one.session for one in found).values()) > 2


def test_a_mooncake_hour_shares_prefixes() -> None:
    found = list(parse_mooncake(hour_like_mooncake(3), "hour"))
    assert len(found) == pytest.approx(12_000, rel=0.25)
    assert statistics.fmean(one.prompt_tokens for one in found) == pytest.approx(12_000, rel=0.1)
    assert {one.blocks[0] for one in found} == {0}
    assert all(one.at % 3 == 0 for one in found)
    seen: set[int] = set()
    again = 0
    for one in found:
        again += sum(block in seen for block in one.blocks)
        seen.update(one.blocks)
    assert 0.25 < again / sum(len(one.blocks) for one in found) < 0.5


def test_a_block_has_the_same_predecessors_wherever_it_comes() -> None:
    before: dict[int, int] = {}
    for one in parse_mooncake(hour_like_mooncake(3, duration_s=600), "hour"):
        for parent, block in itertools.pairwise(one.blocks):
            assert before.setdefault(block, parent) == parent


@pytest.mark.parametrize("hour", [hour_like_azure, hour_like_burstgpt, hour_like_mooncake])
def test_an_hour_is_the_same_for_the_same_seed(hour: Callable[[int], Iterator[str]]) -> None:
    lines = list(itertools.islice(hour(1), 50))
    assert lines == list(itertools.islice(hour(1), 50))
    assert lines != list(itertools.islice(hour(2), 50))


def test_an_unknown_service_is_refused() -> None:
    with pytest.raises(ConfigError, match="service: expected code or conversation"):
        next(hour_like_azure(1, service="mail"))
