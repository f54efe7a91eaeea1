"""Answers routed by sentences: front, store, link, replica and engine together."""

import asyncio
from pathlib import Path

import pytest

from deployments.front.requests.running import Running
from tests.support.small_cluster import deltas_of, make_base, sentences_of, small_cluster, text_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

PROMPT = "Tell me of apples"
FORCED = "It has bells on it. Then crabs. A"
FREE = r"[a-z ]{60,80}"  # a byte each, so that adapters show
GUIDED = {"guided_regex": FORCED.replace(".", r"\.") + FREE}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    make_base(folder)
    return folder


def places(running: Running, index: int = 0) -> list[tuple[object, ...]]:
    return [
        (s["tokens"], s["start"], s["state"], [term["name"] for term in s["mixture"]])
        for s in sentences_of(running, index)
    ]


async def test_sentences_change_adapters_and_a_repeat_routes_nothing(base: Path) -> None:
    async with small_cluster(base) as cluster:
        first = await cluster.ask(PROMPT, **GUIDED)
        assert text_of(first).startswith(FORCED)
        told = places(first)
        assert [(state, names) for _, _, state, names in told] == [
            ("applied", ["apples"]),
            ("applied", ["bells"]),
            ("applied", ["crabs"]),
        ]
        assert told[1][0] == FORCED.index("Then") + 1
        counters = cluster.service.routing.counters
        assert counters.computations == {"words": 3}
        again = await cluster.ask(PROMPT, **GUIDED)
        assert text_of(again) == text_of(first)
        assert places(again) == told
        assert counters.computations == {"words": 3}
        assert {s["source"] for s in sentences_of(again)} == {"stored"}
        assert cluster.count("applied") == 4
        # It is the adapters that write: a prompt whose mixture stays reads otherwise.
        plain = await cluster.ask(PROMPT, model="apples", **GUIDED)
        assert text_of(plain) != text_of(first)
        credited = {a.alias: a.completion_tokens for a in cluster.meter.snapshot().adapters}
        tokens = len(first.answers[0].token_ids)
        start, later = told[1][1], told[2][1]
        assert credited["bells"] == 2 * (later - start)
        assert credited["crabs"] == 2 * (tokens - later)
        cluster.meter.check_integrity()


async def test_choices_streams_and_stops_agree(base: Path) -> None:
    async with small_cluster(base) as cluster:
        await cluster.ask(PROMPT, **GUIDED)
        whole = await cluster.ask(PROMPT, **GUIDED)
        both = await cluster.ask(PROMPT, n=2, **GUIDED)
        assert [text_of(both, n) for n in range(2)] == [text_of(whole)] * 2
        assert places(both, 0) == places(both, 1) == places(whole)
        stopped = await cluster.ask(PROMPT, stop="Then crabs", **GUIDED)
        assert text_of(stopped) == FORCED.partition("Then crabs")[0]
        assert [s["state"] for s in sentences_of(stopped)][-1] in ("applied", "unreached")
        seeded = [await cluster.ask(PROMPT, temperature=1.0, seed=3, **GUIDED) for _ in range(3)]
        assert text_of(seeded[1]) == text_of(seeded[2])


async def test_neighbours_do_not_notice(base: Path) -> None:
    async with small_cluster(base) as cluster:
        await cluster.ask(PROMPT, **GUIDED)
        routed = await cluster.ask(PROMPT, **GUIDED)
        others = {"apples": None, "bells": None, "base": None}
        for model in others:
            others[model] = text_of(await cluster.ask("Once upon a time", model=model))
        together = await asyncio.gather(
            cluster.ask(PROMPT, **GUIDED),
            *(cluster.ask("Once upon a time", model=model) for model in others),
        )
        assert text_of(together[0]) == text_of(routed)
        for running, expected in zip(together[1:], others.values(), strict=True):
            assert text_of(running) == expected


async def test_a_crowded_replica_gives_the_same_answers(base: Path) -> None:
    """Requests are preempted in later spans, whose earlier adapters have been released."""
    prompts = [f"{PROMPT} {n}" for n in range(4)]
    async with small_cluster(base) as roomy:
        for prompt in prompts:
            await roomy.ask(prompt, **GUIDED)
        alone = [await roomy.ask(prompt, **GUIDED) for prompt in prompts]
        store = roomy.store
        async with small_cluster(base, kv_blocks=60, prefix_cache=False) as crowded:
            crowded.store._documents.update(store._documents)
            together = await asyncio.gather(*(crowded.ask(p, **GUIDED) for p in prompts))
            stats = crowded.replicas[0].built.engine.stats()
            assert stats.preemptions > 0
            # A busy machine may hand a decision over some tokens later, and so change the rest.
            pairs = zip(together, alone, strict=True)
            timely = [pair for pair in pairs if places(pair[0]) == places(pair[1])]
            assert timely
            for running, expected in timely:
                assert text_of(running) == text_of(expected)
                assert places(running) == places(expected)


async def test_a_lost_replicas_spans_go_along(base: Path) -> None:
    async with small_cluster(base, replicas=2) as cluster:
        await cluster.ask(PROMPT, **GUIDED)
        expected = await cluster.ask(PROMPT, **GUIDED)
        starts = [start for _, start, _, _ in places(expected)]
        for lost_after in (starts[1] + 2, starts[2] - 1, starts[2] + 8):
            running = await cluster.begin(PROMPT, **GUIDED)
            deltas = deltas_of(running)
            seen = 0
            async for _, delta in deltas:
                seen += len(delta.token_ids)
                if seen == lost_after:
                    # As if the link were cut: what comes on it is not heard any more.
                    first = cluster.open[0]
                    first._end()
                    break
            async for _ in deltas:
                pass
            cluster.service.finish(running, None)
            await cluster.service.explain(running)
            assert text_of(running) == text_of(expected)
            assert places(running) == places(expected)
            first._closed = False
        assert cluster.metrics.failovers._value.get() == 3


@pytest.mark.parametrize("guided", ["It has fail in it. Then crabs. A", "It has dells in it. A"])
async def test_a_sentence_that_cannot_be_routed_changes_nothing(base: Path, guided: str) -> None:
    async with small_cluster(base) as cluster:
        regex = guided.replace(".", r"\.") + FREE
        running = await cluster.ask(PROMPT, guided_regex=regex)
        second = sentences_of(running)[1]
        if "fail" in guided:
            assert (second["state"], second["reason"]) == ("failed", "the router could not answer")
            assert sentences_of(running)[2]["state"] == "applied"
        else:
            assert (second["state"], second["mixture"]) == ("applied", [])  # the base alone
        assert running.outcome == "completed"


async def test_a_client_that_goes_leaves_nothing(base: Path) -> None:
    async with small_cluster(base) as cluster:
        for lost_after in (1, 22, 40):
            running = await cluster.begin(PROMPT, **GUIDED)
            deltas = deltas_of(running)
            seen = 0
            async for _, delta in deltas:
                seen += len(delta.token_ids)
                if seen >= lost_after:
                    break
            await deltas.aclose()
            cluster.service.finish(running, GeneratorExit())
        assert cluster.metrics.in_flight._value.get() == 0
