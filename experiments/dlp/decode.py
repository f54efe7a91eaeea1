"""Time of autoregressive decoding: one adapter, the router's choice, and forced fan-outs."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cluster.base_model.source import ModelLocation
from experiments.dlp.routing import load_any, widen
from training.evaluation.local_engine import Asked, LocalEngine, Weights

PROMPT = "Show the average price of all products per category."


def measure_decode(
    base: ModelLocation,
    router_path: Path,
    adapters: dict[str, Path],
    *,
    tokens: int,
    rounds: int,
    batch: int,
    threads: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Time whole requests, routing included, relative to the same requests with one adapter.

    Cases alternate within a round, so that a busy machine slows all of them alike; ratios are of
    the same round, and their median is reported. CPU time is of the whole process.
    """
    with tempfile.TemporaryDirectory() as folder:
        narrow, wide = load_any(router_path), load_any(widen(router_path, Path(folder) / "wide"))
    names = list(adapters)
    allowed = frozenset({"", *names})
    fixed = {
        f"{k} adapters": tuple((name, 1 / k) for name in names[:k])
        for k in (2, 4, 7)
        if k <= len(names)
    }
    cases: dict[str, Callable[[], Weights]] = {
        "base": lambda: (),
        "one adapter": lambda: ((names[0], 1.0),),
        f"routed among {len(narrow.candidates)}": lambda: narrow.route(PROMPT, allowed).weights,
        f"routed among {len(wide.candidates)}": lambda: wide.route(PROMPT, allowed).weights,
        **{name: partial(tuple, mixture) for name, mixture in fixed.items()},
    }
    wall: dict[str, list[float]] = {name: [] for name in cases}
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    with LocalEngine(
        base, adapters, threads=threads, max_model_len=256, base_check="name"
    ) as engine:
        for round_ in range(rounds + 1):
            for name, mixture in cases.items():
                w, c = time.perf_counter(), time.process_time()
                asked = [Asked(PROMPT, mixture()) for _ in range(batch)]
                engine.answers(asked, tokens, ignore_eos=True)
                if round_:  # the first one warms up
                    wall[name].append(time.perf_counter() - w)
                    cpu[name].append(time.process_time() - c)
            say(f"batch {batch}: round {round_} of {rounds}")
    return {
        "batch": batch,
        "tokens": tokens,
        "rounds": rounds,
        "load_average": os.getloadavg()[0],
        "cases": {
            name: {
                "fan_out": len(cases[name]()),
                "wall_s": statistics.median(wall[name]),
                "cpu_s": statistics.median(cpu[name]),
                "wall_ratio": _ratio(wall[name], wall["one adapter"]),
                "cpu_ratio": _ratio(cpu[name], cpu["one adapter"]),
            }
            for name in cases
        },
    }


def _ratio(times: Sequence[float], reference: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, reference, strict=True))
