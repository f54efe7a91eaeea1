"""Tokens per second of decoding: plain LoRA, MiLoRA, and a mixture of experts routed per token.

All run in one engine through the same operator, over random adapters of one total rank. Their
answers do not matter here: every decode step computes the same products for any tokens.
"""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from cluster.base_model.source import ModelLocation
from cluster.config import AdapterConfig, EngineConfig
from cluster.domain.ids import Slot
from cluster.engine.mixing import Mixing
from cluster.engine.mixing_parts import MixingParts
from experiments.milora.decoding import Timed, TimedEngine
from experiments.milora.experts import TokenRouter, random_token_router
from experiments.milora.recorded import RecordedRouter
from router_service.milora.milora_network import MiloraRouter, tensor_shapes
from router_service.milora.rational import gelu_coefficients

TOP_EXPERTS = 2
PROMPT_TOKENS = 32

_PLAIN = Slot(0)
_BLOCK = 16
_REFERENCE = "plain LoRA"


@dataclass(frozen=True)
class DecodeCase:
    """Form of a request."""

    adapters: tuple[tuple[Slot, float], ...]
    mixing: Mixing | None = None


def measure_decode(
    base: ModelLocation,
    *,
    batch: int,
    tokens: int,
    rounds: int,
    rank: int,
    experts: int,
    threads: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure tokens per second in steps that decode ``batch`` requests at once, and router calls.

    Cases alternate within a round, in an order that moves on by one from round to round, so that
    a busy machine slows all of them alike; ratios are of the same round, and medians over rounds
    are reported. CPU time is of the whole process.
    """
    room = PROMPT_TOKENS + tokens + _BLOCK
    config = EngineConfig(
        threads=threads,
        max_model_len=room,
        block_size=_BLOCK,
        kv_blocks=batch * (-(-room // _BLOCK) + 1),
        max_batch_size=batch,
        max_batch_tokens=batch * PROMPT_TOKENS,
        prefix_cache=False,
    )
    limits = AdapterConfig(
        slots=1 + experts, max_rank=rank, memory_bytes=2**30, max_mixture=experts
    )
    parts = MixingParts()
    engine = TimedEngine(base.path, config, limits, parts)
    generator = torch.Generator().manual_seed(0)
    engine.write(_PLAIN, rank, generator)
    for index in range(experts):
        engine.write(Slot(1 + index), rank // experts, generator)
    layers, hidden = engine.num_layers, engine.hidden_size
    prompts: dict[str, RecordedRouter] = {}
    for top_k in (1, 3):
        router = random_prompt_router(layers, hidden, top_k, generator)
        prompts[f"k{top_k}"] = RecordedRouter(router)
    widths = {"layer": {"": hidden}, "module": engine.input_widths}
    gates = {
        name: random_token_router(layers, own, experts, TOP_EXPERTS, generator)
        for name, own in widths.items()
    }
    parts.routers.update(prompts)
    parts.gates.update(gates)
    parts.move_to(engine.device)
    alone = ((_PLAIN, 1.0),)
    mixed = tuple((Slot(1 + index), 1.0) for index in range(experts))
    cases = {
        "base": DecodeCase(()),
        _REFERENCE: DecodeCase(alone),
        "MiLoRA, k = 3": DecodeCase(alone, Mixing(router="k3")),
        "MiLoRA, k = 1": DecodeCase(alone, Mixing(router="k1")),
        "experts, a router per layer": DecodeCase(mixed, Mixing(gate="layer")),
        "experts, a router per module": DecodeCase(mixed, Mixing(gate="module")),
    }
    counters = {name: _counter(case.mixing, prompts, gates) for name, case in cases.items()}
    timings: dict[str, list[Timed]] = {name: [] for name in cases}
    names = list(cases)
    with engine:
        for round_ in range(rounds + 1):
            shift = round_ % len(names)
            for name in names[shift:] + names[:shift]:
                case = cases[name]
                timed = engine.decode(
                    batch, PROMPT_TOKENS, tokens, case.adapters, case.mixing, counters[name]
                )
                if round_:  # the first one warms up
                    timings[name].append(timed)
            say(f"batch {batch}: round {round_} of {rounds}")
    return {
        "batch": batch,
        "tokens": tokens,
        "prompt_tokens": PROMPT_TOKENS,
        "top_experts": TOP_EXPERTS,
        "rounds": rounds,
        "rank": rank,
        "experts": experts,
        "layers": layers,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "cases": {name: _summary(timings[name], timings[_REFERENCE], batch) for name in names},
    }


def random_prompt_router(
    layers: int, hidden_size: int, top_k: int, generator: torch.Generator
) -> MiloraRouter:
    """Make MiLoRA's routers of all layers, untrained: they use the modules about alike."""
    numerator, denominator = gelu_coefficients()
    tensors = {
        name: torch.randn(shape, generator=generator) / hidden_size**0.5
        for name, shape in tensor_shapes(layers, hidden_size, "self_attention").items()
    }
    tensors["numerator"] = numerator.repeat(layers, 1)
    tensors["denominator"] = denominator.repeat(layers, 1)
    return MiloraRouter(tensors, top_k=top_k)


def _summary(timings: Sequence[Timed], reference: Sequence[Timed], batch: int) -> dict[str, Any]:
    rates = [timed.decoded / timed.wall_s for timed in timings]
    low, middle, high = statistics.quantiles(rates, n=4, method="inclusive")
    steps = timings[-1].decoded / batch
    return {
        "tokens_per_s": {"low": low, "median": middle, "high": high},
        "wall_ratio": _ratio([rate(t, "wall_s") for t in timings], reference, "wall_s"),
        "cpu_ratio": _ratio([rate(t, "cpu_s") for t in timings], reference, "cpu_s"),
        "cpu_ms_per_token": 1e3 * statistics.median(t.cpu_s / t.decoded for t in timings),
        "prefill_ms": 1e3 * statistics.median(t.prefill_s for t in timings),
        "router_calls_per_prompt": timings[-1].prefill_calls / batch,
        "router_calls_per_decode_step": timings[-1].decode_calls / steps,
    }


def rate(timed: Timed, of: Literal["wall_s", "cpu_s"]) -> float:
    """Return the decoded tokens per second."""
    seconds: float = getattr(timed, of)
    return timed.decoded / seconds


def _ratio(
    rates: Sequence[float], reference: Sequence[Timed], of: Literal["wall_s", "cpu_s"]
) -> dict[str, float]:
    """Compute the ratio to the reference of the same round: median and quartiles."""
    ratios = [own / rate(other, of) for own, other in zip(rates, reference, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"low": low, "median": middle, "high": high}


def _counter(
    mixing: Mixing | None,
    prompts: Mapping[str, RecordedRouter],
    gates: Mapping[str, TokenRouter],
) -> Callable[[], int]:
    """Count the calls of the router that ``mixing`` names."""
    if mixing is None:
        return lambda: 0
    router = prompts[mixing.router] if mixing.router else gates[mixing.gate]
    return lambda: router.calls
