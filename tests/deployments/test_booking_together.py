"""Checks what requests cost their tenant: front, link, replica and engine together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ReplicaLost
from cluster.tenancy.limits import QuotaLimits
from deployments.front.openai.answers import usage_body
from deployments.front.openai.prompt_requests import completion_request
from deployments.front.openai.wire import CompletionBody
from deployments.front.requests.running import Running
from tests.support.small_cluster import ACME, SmallCluster, deltas_of, make_base, small_cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
TOKENS = 1000  # refilled so slowly that a charge which stayed would show
LIMITED = replace(ACME, limits=QuotaLimits(tokens_per_minute=TOKENS, max_concurrent=9))
PROMPT = "Tell me of apples"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    make_base(folder)
    return folder


async def begin(cluster: SmallCluster, **fields: Any) -> Running:
    body = CompletionBody(**{"model": "apples", "prompt": PROMPT, "max_tokens": 8, **fields})
    running = await cluster.service.begin(LIMITED, completion_request(body))
    cluster.runnings.append(running)
    return running


async def booked(cluster: SmallCluster) -> tuple[int, int, float, int]:
    """Return a tenant's prompt and completion tokens, tokens taken from the bucket, and places."""
    await cluster.service._admission._settling.wait(60)
    (usage,) = cluster.meter.snapshot().tenants
    quota: Any = cluster.service._admission._quota
    account = quota._accounts[ACME.id]
    cluster.meter.check_integrity()
    quota.check_integrity()
    return usage.prompt_tokens, usage.completion_tokens, account.tokens.level, account.places


@pytest.mark.parametrize("prompt", [PROMPT, [PROMPT, PROMPT, "Bells"]], ids=["one", "three"])
async def test_a_prompt_with_several_answers_is_booked_once(base: Path, prompt: Any) -> None:
    async with small_cluster(base) as cluster:
        running = await begin(cluster, prompt=prompt, n=3)
        await cluster.collect(running)
        told = usage_body(running.answers, running.prompts)
        found = await booked(cluster)
        assert found[:2] == (told["prompt_tokens"], told["completion_tokens"])
        assert found[3] == 0
        assert told["prompt_tokens"] == sum(
            len(choice.spec.prompt_token_ids) for choice in running.choices[::3]
        )


async def test_what_never_ran_costs_nothing(base: Path) -> None:
    async with small_cluster(base) as cluster:
        gone = await begin(cluster, n=2)  # its client left while it waited
        cluster.service.finish(gone, GeneratorExit())
        links, cluster.open = cluster.open, []
        refused = await begin(cluster, n=2)
        with pytest.raises(ReplicaLost) as failure:
            await cluster.collect(refused)
        cluster.service.finish(refused, failure.value)
        cluster.open = links
        assert await booked(cluster) == (0, 0, TOKENS, 0)


async def test_a_part_costs_what_was_computed(base: Path) -> None:
    async with small_cluster(base) as cluster:
        running = await begin(cluster, max_tokens=90, ignore_eos=True)
        deltas = deltas_of(running)
        await anext(deltas)
        await deltas.aclose()
        cluster.service.finish(running, GeneratorExit())
        prompt, completion, _, places = await booked(cluster)
        assert prompt == len(running.choices[0].spec.prompt_token_ids)
        assert completion == running.choices[0].generated >= 1
        assert places == 0


async def test_reservations_follow_what_answers_were_like(base: Path) -> None:
    """A regex ends each answer after three tokens."""
    async with small_cluster(base) as cluster:
        reserved = []
        for _ in range(30):
            running = await begin(cluster, max_tokens=200, guided_regex="ab")
            prompt = len(running.choices[0].spec.prompt_token_ids)
            reserved.append(running.verdict.ask.expected - prompt)
            await cluster.collect(running)
        assert reserved[0] == 64
        assert reserved == sorted(reserved, reverse=True)
        assert reserved[-1] <= 16
        forced = await begin(cluster, max_tokens=50, ignore_eos=True)
        assert forced.verdict.ask.expected - prompt == 50
        cluster.service.finish(forced, GeneratorExit())
