"""Cost of a gate in decoding, over the same two adapters with fixed weights."""

import os
import statistics
import time
from pathlib import Path
from typing import Any

from cluster.base_model.source import ModelLocation
from experiments.flow.flow_quality import gate_part
from experiments.flow.training import Say
from training.evaluation.local_engine import Asked, LocalEngine, Weights

PROMPT = "Show the average price of all products per category."


def measure_timing(
    base: ModelLocation,
    adapters: dict[str, Path],
    gate: Path,
    *,
    batch: int,
    tokens: int,
    rounds: int,
    threads: int,
    say: Say,
) -> dict[str, Any]:
    """Measure the seconds of ``tokens`` decode steps of a full batch, gate and mixture in turn.

    A decode time is that of 1 + ``tokens`` tokens less that of one token of the same prompts. The
    order changes from round to round; a ratio is of one round, and its median is reported with the
    quartiles.
    """
    weights: Weights = tuple((alias, 0.5) for alias in adapters)
    asked = [Asked(PROMPT, weights)] * batch
    part, version = gate_part(gate, base)
    settings: dict[str, Any] = {"threads": threads, "max_model_len": 256, "base_check": "name"}
    wall: dict[str, list[float]] = {"static": [], "gate": []}
    cpu: dict[str, list[float]] = {"static": [], "gate": []}
    with (
        LocalEngine(base, adapters, **settings) as static,
        LocalEngine(base, adapters, part=part, **settings) as gated,
    ):
        engines = {"static": static, "gate": gated}
        for round_ in range(rounds + 1):
            order = list(engines) if round_ % 2 else list(engines)[::-1]
            for name in order:
                short = _time(engines[name], asked, 1)
                long = _time(engines[name], asked, 1 + tokens)
                if round_:  # the first one warms up
                    wall[name].append(long[0] - short[0])
                    cpu[name].append(long[1] - short[1])
            say(f"timing: round {round_} of {rounds}")
    return {
        "batch": batch,
        "tokens": tokens,
        "rounds": rounds,
        "gate": version,
        "load_average": os.getloadavg()[0],
        "step_ms": {name: 1e3 * statistics.median(t) / tokens for name, t in wall.items()},
        "wall_ratio": _ratios(wall),
        "cpu_ratio": _ratios(cpu),
    }


def _time(engine: LocalEngine, asked: list[Asked], tokens: int) -> tuple[float, float]:
    """Measure wall time and CPU time of the process, in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    engine.answers(asked, tokens, ignore_eos=True)
    return time.perf_counter() - wall, time.process_time() - cpu


def _ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """Compute gate over static within a round: median and quartiles."""
    ratios = [g / s for g, s in zip(times["gate"], times["static"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"low": low, "median": middle, "high": high}
