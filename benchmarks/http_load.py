"""Throughput and latency over HTTP, of any server that speaks OpenAI's API.

Up to three loads take turns, so that a machine that slows down slows all of them down: the base
(``--base``), models or adapters one after the other over the requests (``--models``), and mixtures
of ``--mixture`` of those adapters, each request with its own (Braid only). A round sends
``--concurrency`` requests at once, each with its own random prompt of ``--prompt-tokens`` token ids
and exactly ``--output-tokens`` of greedy output. The first round of each load is not counted.

Only servers on this machine are loaded. An answer of another length ends the run.
"""

import argparse
import asyncio
import itertools
import json
import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2

from benchmarks.engine.cases import Case

LOCAL = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True)
class Load:
    """Requests of a round; their bodies take turns."""

    name: str
    targets: tuple[dict[str, Any], ...]  # fields of request i's body: "model", "adapters"


@dataclass(frozen=True)
class Timing:
    """One request, in seconds."""

    ttft: float
    gaps: tuple[float, ...]  # between events that brought something
    tokens: int
    events: int


@dataclass(frozen=True)
class LoadResult:
    """One load at one concurrency. Rates are of rounds, latencies of all requests or events."""

    load: str
    concurrency: int
    rounds: int
    output_tokens_per_s: float  # median of the rounds
    output_tokens_per_s_low: float
    output_tokens_per_s_high: float
    ttft_ms_p50: float
    ttft_ms_p99: float
    inter_token_ms_p50: float
    inter_token_ms_p99: float
    tokens_per_event: float  # above 1: inter-token times are of several tokens


def loads(base: str | None, models: Sequence[str], mixture: int, concurrency: int) -> list[Load]:
    """List the loads of a run.

    Args:
        base: name of the base model; None: it is not measured, and there are no mixtures.
        models: names of adapters (or of anything else that ``model`` may be).
        mixture: adapters in each mixture; 0: no mixtures.
        concurrency: requests of a round.

    Raises:
        ValueError: there is nothing to do, or mixtures without a base or enough adapters.
    """
    if base is None and not models:
        raise ValueError("--base or --models is needed")
    if mixture and (base is None or len(models) < mixture):
        raise ValueError(f"--mixture {mixture} needs --base and at least {mixture} --models")
    found = []
    if base is not None:
        found.append(Load("base", ({"model": base},)))
    if models:
        name = "1 adapter" if len(models) == 1 else f"{len(models)} adapters"
        found.append(Load(name, tuple({"model": model} for model in models)))
    if mixture:
        case = Case("mixture", "mixture", len(models), mixture, blended=True)
        targets = tuple(
            {"model": base, "adapters": [{"name": models[n], "weight": w} for n, w in terms]}
            for terms in case.mixtures(concurrency)
        )
        found.append(Load(f"mixtures of {mixture}", targets))
    return found


async def ask(
    client: httpx2.AsyncClient,
    options: argparse.Namespace,
    target: dict[str, Any],
    prompt: list[int],
) -> Timing:
    """Send one streamed request and time its events.

    Raises:
        RuntimeError: the server refused it, ended early, or generated another number of tokens.
    """
    body: dict[str, Any] = {
        **target,
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
            raise RuntimeError(f"{answer.status_code}: {(await answer.aread()).decode()}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(f"{target}: {event['error']}")
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
            if event["choices"] and (event["choices"][0].get("text") or not arrivals):
                arrivals.append(time.perf_counter())
    if tokens != options.output_tokens:
        raise RuntimeError(f"{target}: {tokens} tokens, expected {options.output_tokens}")
    gaps = tuple(after - before for before, after in itertools.pairwise(arrivals))
    return Timing(arrivals[0] - started, gaps, tokens, len(arrivals))


async def measure(options: argparse.Namespace, concurrency: int) -> list[LoadResult]:
    """Measure all loads at one concurrency, in turns."""
    rng = random.Random(options.seed)
    headers = {"authorization": f"Bearer {options.key}"}
    chosen = loads(options.base, options.models, options.mixture, concurrency)
    rates: dict[str, list[float]] = {load.name: [] for load in chosen}
    timings: dict[str, list[Timing]] = {load.name: [] for load in chosen}
    async with httpx2.AsyncClient(headers=headers, timeout=options.timeout) as client:
        for number in range(options.rounds + 1):
            for load in chosen:
                prompts = [
                    [rng.randrange(100, options.vocabulary) for _ in range(options.prompt_tokens)]
                    for _ in range(concurrency)
                ]
                # Rounds of few requests walk through the list, so that all of it is asked for.
                targets = itertools.islice(
                    itertools.cycle(load.targets), number * concurrency, (number + 1) * concurrency
                )
                started = time.perf_counter()
                finished = await asyncio.gather(
                    *(
                        ask(client, options, target, prompt)
                        for target, prompt in zip(targets, prompts, strict=True)
                    )
                )
                elapsed = time.perf_counter() - started
                if number:
                    rates[load.name].append(sum(t.tokens for t in finished) / elapsed)
                    timings[load.name].extend(finished)
    return [
        summarise(load.name, concurrency, rates[load.name], timings[load.name]) for load in chosen
    ]


def summarise(
    name: str, concurrency: int, rates: Sequence[float], timings: Sequence[Timing]
) -> LoadResult:
    """Compute the figures of one load from its rounds' rates and its requests' times."""
    gaps = [gap * 1e3 for timing in timings for gap in timing.gaps] or [math.nan]
    first = [timing.ttft * 1e3 for timing in timings]
    return LoadResult(
        load=name,
        concurrency=concurrency,
        rounds=len(rates),
        output_tokens_per_s=round(statistics.median(rates), 1),
        output_tokens_per_s_low=round(min(rates), 1),
        output_tokens_per_s_high=round(max(rates), 1),
        ttft_ms_p50=round(statistics.median(first), 1),
        ttft_ms_p99=round(percentile(first, 0.99), 1),
        inter_token_ms_p50=round(statistics.median(gaps), 2),
        inter_token_ms_p99=round(percentile(gaps, 0.99), 2),
        tokens_per_event=round(sum(t.tokens for t in timings) / sum(t.events for t in timings), 3),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of all values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def line(result: LoadResult) -> str:
    """Write one result for people."""
    return (
        f"{result.load:<16} {result.concurrency:3d} at once: "
        f"{result.output_tokens_per_s:7.1f} tokens/s "
        f"({result.output_tokens_per_s_low}-{result.output_tokens_per_s_high}), "
        f"TTFT p50 {result.ttft_ms_p50:.1f} p99 {result.ttft_ms_p99:.1f} ms, "
        f"inter-token p50 {result.inter_token_ms_p50:.2f} p99 {result.inter_token_ms_p99:.2f} ms"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="without /v1")
    parser.add_argument("--key", default="none", help="API key")
    parser.add_argument("--base", help="name of the base model")
    parser.add_argument(
        "--models", "--model", default="", help="adapters, comma separated; * is 00 to 15: lora-*"
    )
    parser.add_argument("--mixture", type=int, default=0, metavar="K", help="Braid only")
    parser.add_argument("--concurrency", default="1,16", help="comma separated")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=40000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args(arguments)
    if urlsplit(options.url).hostname not in LOCAL:
        parser.error("--url: only a server on this machine")
    options.models = [name for entry in options.models.split(",") for name in _expand(entry)]
    counts = [int(count) for count in options.concurrency.split(",")]
    try:
        loads(options.base, options.models, options.mixture, max(counts))
    except ValueError as error:
        parser.error(str(error))
    try:
        for concurrency in counts:
            for result in asyncio.run(measure(options, concurrency)):
                print(json.dumps(asdict(result)) if options.json else line(result), flush=True)
    except (RuntimeError, httpx2.HTTPError) as error:
        raise SystemExit(f"stopped: {type(error).__name__}: {error}") from error


def _expand(entry: str) -> list[str]:
    if "*" in entry:
        return [entry.replace("*", f"{number:02d}") for number in range(16)]
    return [entry] if entry else []


if __name__ == "__main__":
    main()
