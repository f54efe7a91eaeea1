"""Files of one hour in the published formats, made from published figures of the traces' shapes.

No line is of a real trace. Of Azure's, rates, medians and means are as published; of Mooncake's,
the rate, the mean lengths and the steps of time; of BurstGPT's, the mean rate, the share of models
and that failures have no response. What is between them is a formula (docs/simulator.md).
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Literal

from cluster.errors import ConfigError
from cluster.simulation.traces.arrivals import ArrivalRate, MarkovRate, arrival_times
from cluster.simulation.traces.imports.formats import MOONCAKE_BLOCK
from cluster.simulation.traces.lengths import Lengths, LogNormalLength, QuantileLength

HOUR_S = 3600.0
AzureService = Literal["code", "conversation"]

_AZURE_RATES: dict[str, ArrivalRate] = {
    # Requests per second: 19,366 and 8,819 in 58 minutes; code comes in bursts.
    "conversation": MarkovRate((4.2, 7.6), (240.0, 160.0)),
    "code": MarkovRate((1.0, 3.0, 8.4), (150.0, 140.0, 20.0)),
}
_AZURE_PROMPTS: dict[str, Lengths] = {
    # Medians 1,020 and 1,500, means 1,155 and 2,050, at most some 14,000 and 7,400.
    "conversation": QuantileLength(
        ((0, 3), (0.1, 120), (0.25, 396), (0.5, 1020), (0.75, 1430), (0.97, 3000), (1, 14050))
    ),
    "code": QuantileLength(
        ((0, 3), (0.1, 340), (0.25, 1000), (0.5, 1500), (0.75, 2940), (0.95, 5580), (1, 7437))
    ),
}
_AZURE_ANSWERS: dict[str, Lengths] = {
    # Medians 129 and 13, means 211 and 28.
    "conversation": QuantileLength(
        ((0, 7), (0.1, 30), (0.25, 85), (0.5, 129), (0.75, 320), (0.95, 540), (1, 1000))
    ),
    "code": QuantileLength(
        ((0, 1), (0.1, 6), (0.25, 8), (0.5, 13), (0.75, 22), (0.97, 90), (1, 1899))
    ),
}


def hour_like_azure(
    seed: int, *, service: AzureService = "conversation", duration_s: float = HOUR_S
) -> Iterator[str]:
    """Yield the lines of a file in Azure's format (2023)."""
    if service not in _AZURE_RATES:
        raise ConfigError(f'service: expected code or conversation, found "{service}"')
    rng = Random(f"{seed}/azure/{service}")
    begin = datetime(2023, 11, 16, 18, 0, tzinfo=UTC)
    yield "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    for at in arrival_times(_AZURE_RATES[service], rng, duration_s):
        moment = begin + timedelta(seconds=at)
        prompt = _AZURE_PROMPTS[service].draw(rng)
        answer = _AZURE_ANSWERS[service].draw(rng)
        yield f"{moment:%Y-%m-%d %H:%M:%S.%f}0,{prompt},{answer}\n"


def hour_like_burstgpt(seed: int, *, duration_s: float = HOUR_S) -> Iterator[str]:
    """Yield the lines of a file in BurstGPT's format with sessions.

    Two models, most requests to the smaller one; whole seconds; conversations of several turns
    whose prompts grow; 3 % of requests fail and have no response tokens.
    """
    rng = Random(f"{seed}/burstgpt")
    rate = MarkovRate((0.15, 0.6, 3.0), (400.0, 300.0, 40.0))
    prompts = LogNormalLength(260, 1.1, most=4000)
    answers = LogNormalLength(160, 1.0, most=2000)
    sessions: dict[str, int] = {}  # tokens that the next turn begins with
    yield (
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,"
        "Total tokens,Log Type\n"
    )
    for at in arrival_times(rate, rng, duration_s, cv=1.6):
        if sessions and rng.random() < 0.55:
            session = rng.choice(list(sessions)[-40:])
        else:
            session = f"{rng.getrandbits(64):016x}"
        model = "GPT-4" if int(session, 16) % 100 < 15 else "ChatGPT"
        prompt = min(8000, sessions.get(session, 0) + prompts.draw(rng))
        answer = 0 if rng.random() < 0.03 else answers.draw(rng)
        sessions[session] = prompt + answer
        log = "Conversation log" if rng.random() < 0.6 else "API log"
        elapsed = max(1, round(answer / 30))
        yield (
            f"{int(at)}.0,{session},{elapsed},{model},{prompt},{answer},{prompt + answer},{log}\n"
        )


def hour_like_mooncake(seed: int, *, duration_s: float = HOUR_S) -> Iterator[str]:
    """Yield the lines of a file in Mooncake's format.

    12,000 requests in an hour, whose times are multiples of 3 s; prompts of 12,000 tokens on
    average; all begin with one common block, and two thirds then repeat an earlier one's blocks.
    """
    rng = Random(f"{seed}/mooncake")
    rate = MarkovRate((2.4, 4.6), (200.0, 150.0))
    prompts = LogNormalLength(6900, 1.05, least=890, most=120_000)
    answers = LogNormalLength(330, 0.7, most=2000)
    earlier: list[tuple[int, ...]] = []
    fresh = 1
    for at in arrival_times(rate, rng, duration_s):
        length = prompts.draw(rng)
        blocks = -(-length // MOONCAKE_BLOCK)
        ids: tuple[int, ...] = (0,)
        if earlier and rng.random() < 0.66:
            before = earlier[-1 - min(int(rng.expovariate(1 / 300)), len(earlier) - 1)]
            ids = before[: min(len(before), blocks)]
        ids = (*ids, *range(fresh, fresh + blocks - len(ids)))
        fresh = max(fresh, ids[-1] + 1)
        earlier.append(ids)
        line = {
            "timestamp": int(at // 3) * 3000,
            "input_length": length,
            "output_length": answers.draw(rng),
            "hash_ids": ids,
        }
        yield json.dumps(line) + "\n"
