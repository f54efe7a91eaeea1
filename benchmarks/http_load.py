"""Throughput and latency over HTTP, of any server that speaks OpenAI's API.

Every round sends ``--concurrency`` requests at once, each with its own random prompt of
``--prompt-tokens`` token ids and exactly ``--output-tokens`` of greedy output; request i asks for
the i-th model of the list, round robin. Only servers on this machine are loaded.
"""

import argparse
import asyncio
import itertools
import json
import random
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2

LOCAL = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True)
class Timing:
    """One request, in seconds."""

    ttft: float
    gaps: tuple[float, ...]
    tokens: int


@dataclass(frozen=True)
class Result:
    """Medians over the rounds of one load."""

    models: int
    concurrency: int
    output_tokens_per_s: float
    spread: tuple[float, float]
    ttft_ms: float
    inter_token_ms: float


async def one(
    client: httpx2.AsyncClient, options: argparse.Namespace, model: str, prompt: list[int]
) -> Timing:
    """Send one streamed request and time its tokens."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": options.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = time.perf_counter()
    arrivals: list[float] = []
    tokens = 0
    async with client.stream("POST", f"{options.url}/v1/completions", json=body) as answer:
        if answer.status_code != 200:
            raise SystemExit(f"{answer.status_code}: {(await answer.aread()).decode()}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
            elif event["choices"]:
                arrivals.append(time.perf_counter())
    gaps = tuple(b - a for a, b in itertools.pairwise(arrivals))
    return Timing(arrivals[0] - started, gaps, tokens)


async def load(options: argparse.Namespace, models: list[str], concurrency: int) -> Result:
    """Rounds of ``concurrency`` requests after one that is not counted."""
    rng = random.Random(options.seed)
    headers = {"authorization": f"Bearer {options.key}"}
    rates: list[float] = []
    timings: list[Timing] = []
    async with httpx2.AsyncClient(headers=headers, timeout=options.timeout) as client:
        for number in range(options.rounds + 1):
            prompts = [
                [rng.randrange(100, options.vocabulary) for _ in range(options.prompt_tokens)]
                for _ in range(concurrency)
            ]
            started = time.perf_counter()
            finished = await asyncio.gather(
                *(
                    one(client, options, models[i % len(models)], prompt)
                    for i, prompt in enumerate(prompts)
                )
            )
            elapsed = time.perf_counter() - started
            if number:
                rates.append(sum(t.tokens for t in finished) / elapsed)
                timings.extend(finished)
    gaps = [gap for timing in timings for gap in timing.gaps]
    return Result(
        models=len(models),
        concurrency=concurrency,
        output_tokens_per_s=round(statistics.median(rates), 1),
        spread=(round(min(rates), 1), round(max(rates), 1)),
        ttft_ms=round(statistics.median(t.ttft for t in timings) * 1000, 1),
        inter_token_ms=round(statistics.median(gaps) * 1000, 1),
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", required=True)
    parser.add_argument("--models", required=True, help="comma separated")
    parser.add_argument("--concurrency", default="1,16", help="comma separated")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=40000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if urlsplit(options.url).hostname not in LOCAL:
        parser.error("--url: only a server on this machine")
    models = options.models.split(",")
    for concurrency in map(int, options.concurrency.split(",")):
        result = asyncio.run(load(options, models, concurrency))
        if options.json:
            print(json.dumps(asdict(result)))
        else:
            low, high = result.spread
            print(
                f"{result.models:3d} models, {result.concurrency:3d} at once: "
                f"{result.output_tokens_per_s:7.1f} tokens/s ({low}-{high}), "
                f"TTFT {result.ttft_ms:7.1f} ms, inter-token {result.inter_token_ms:6.1f} ms"
            )


if __name__ == "__main__":
    main()
