"""The traffic repeats itself for a seed, has everything in it, and its bodies are what they say."""

import itertools
import random
import statistics
from collections import Counter

import pytest
from pydantic import ValidationError

from benchmarks.soak.traffic import Planned, Traffic
from cluster.domain.request import Outcome
from cluster.errors import RequestError
from deployments.front.http.problem import invalid_body
from deployments.front.openai.wire import ChatBody, CompletionBody

RIGHTS = {"acme": ("sql", "json", "cron"), "globex": ("dates", "json", "tickets")}


def traffic(seed: int, count: int = 3000) -> list[Planned]:
    source = Traffic(random.Random(seed), "base-model", RIGHTS, rate=2.0)
    return list(itertools.islice(source, count))


@pytest.fixture(scope="module")
def planned() -> list[Planned]:
    return traffic(1)


def parse(item: Planned) -> ChatBody | CompletionBody:
    kind = ChatBody if "chat" in item.path else CompletionBody
    try:
        return kind.model_validate_json(item.body)
    except ValidationError as error:
        raise invalid_body(error) from error


def test_the_same_seed_gives_the_same_requests(planned: list[Planned]) -> None:
    assert traffic(1) == planned
    assert traffic(2) != planned


def test_arrivals_come_at_the_rate(planned: list[Planned]) -> None:
    assert statistics.mean(item.gap for item in planned) == pytest.approx(0.5, rel=0.1)


def test_good_requests_are_well_formed_and_only_of_ones_own(planned: list[Planned]) -> None:
    for item in planned:
        if item.kind in ("bad", "stranger"):
            continue
        body = parse(item)
        assert item.stream == bool(body.stream)
        names = {body.model, *(term.name for term in body.adapters or ())}
        assert names <= {"base-model", "auto", *RIGHTS[item.tenant]}
        assert Outcome.COMPLETED in item.allowed
        assert body.max_tokens is not None
        assert body.max_tokens >= (body.min_tokens or 0)
        assert (Outcome.CANCELLED in item.allowed) == (item.leave_after is not None)


def test_everything_occurs(planned: list[Planned]) -> None:
    kinds = Counter(item.kind for item in planned)
    assert kinds.keys() == {"base", "adapter", "mixture", "auto", "long", "bad", "stranger"}
    good = [parse(item) for item in planned if item.kind not in ("bad", "stranger")]
    for name in ("stop", "n", "guided_regex", "repetition_penalty", "logit_bias", "logprobs"):
        assert any(getattr(body, name) for body in good), name
    assert any(isinstance(body, CompletionBody) and body.echo for body in good)
    assert any(body.max_tokens == 0 for body in good)
    left = [item.leave_after for item in planned if item.leave_after is not None]
    assert 0.0 in left
    assert max(left) > 1
    assert {item.stream for item in planned if item.leave_after is not None} == {True, False}


def test_bad_requests_are_refused_and_nobody_elses_adapters_are_given(
    planned: list[Planned],
) -> None:
    for item in planned:
        if item.kind != "bad":
            continue
        assert item.allowed == {Outcome.REJECTED_INVALID}
        try:
            body = parse(item)
        except RequestError:
            continue
        known = {"base-model", *RIGHTS[item.tenant]}
        assert (
            body.model not in known
            or body.prompt == ""
            or len(str(body.prompt)) > 4000
            or body.guided_regex == "("
        )
