"""Decoding speed of the engine, in process, beside transformers and PEFT on the same machine.

Each row decodes a batch of greedy requests with prompts of their own: the base alone, one adapter,
an adapter per request, a mixture of four adapters per request. A step's time is the median over
the run, prefill left out, for the engine and the reference alike. No figure is printed for a row
whose tokens the reference would not have chosen: the reference scores the engine's own output, and
every token must have the largest logit but for rounding.

PEFT has no mixtures in a mixed batch; its row has each request's mixture merged into one adapter of
the concatenated rank beforehand.
"""

import argparse
import json
import logging
import platform
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from random_adapters import write_adapters

from cluster.adapters.base_shapes import BaseShapes
from cluster.adapters.loader import load_adapter
from cluster.clock import SystemClock
from cluster.config import AdapterConfig, EngineConfig
from cluster.domain.decision import DecisionSource, Granularity, RoutingDecision
from cluster.domain.ids import DecisionId, RequestId, Slot, TenantId
from cluster.domain.request import GenerationChunk, GenerationRequest, SamplingParams
from cluster.engine.factory import build_engine

MARGIN = 2e-3
"""Largest distance of a chosen token's logit from the largest one: fp32 rounding of 30 layers."""

ADAPTERS = 16
RANK = 8
PROMPT_TOKENS = 64

Mixture = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    mixtures: tuple[Mixture, ...]  # per request; empty is the base

    @property
    def batch(self) -> int:
        """Requests decoded together."""
        return len(self.mixtures)


@dataclass(frozen=True)
class Row:
    """What one case took."""

    name: str
    batch: int
    step_ms: float
    tokens_per_s: float
    ratio_to_base: float  # of the same batch size
    reference: str
    reference_tokens_per_s: float
    speedup: float


def cases() -> list[Case]:
    """The rows. The base comes first: PEFT changes the reference's model in place."""
    one: Mixture = ((0, 1.0),)

    def mixture(request: int) -> Mixture:
        weights = (0.4, 0.3, 0.2, 0.1)
        return tuple(((request + k) % ADAPTERS, weight) for k, weight in enumerate(weights))

    return [
        Case("base", ((),)),
        Case("base", ((),) * 16),
        Case("1 adapter", (one,)),
        Case("1 adapter", (one,) * 16),
        Case("16 adapters", tuple(((i % ADAPTERS, 1.0),) for i in range(16))),
        Case("16 mixtures of 4", tuple(mixture(i) for i in range(16))),
    ]


@dataclass
class _Arrivals:
    """Collects an engine's chunks; one entry of ``steps`` per callback."""

    tokens: dict[str, list[int]] = field(default_factory=dict)
    steps: list[tuple[float, int]] = field(default_factory=list)  # (time, tokens)
    live: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def receive(self, chunks: list[GenerationChunk]) -> None:
        self.steps.append((time.perf_counter(), sum(len(chunk.token_ids) for chunk in chunks)))
        for chunk in chunks:
            self.tokens[chunk.request_id] += chunk.token_ids
            if chunk.error_code is not None:
                self.failed.append(f"{chunk.request_id}: {chunk.error_message}")
            if chunk.finish_reason is not None:
                self.live.discard(chunk.request_id)
        if not self.live:
            self.done.set()


class EngineUnderTest:
    """Braid's engine with the adapters in its bank."""

    def __init__(self, model: Path, adapters: Sequence[Path], threads: int) -> None:
        self._arrivals = _Arrivals()
        config = EngineConfig(
            device="cpu", threads=threads, max_batch_size=16, kv_blocks=256, prefix_cache=False
        )
        adapter_config = AdapterConfig(slots=len(adapters))
        built = build_engine(
            model,
            config,
            adapter_config,
            clock=SystemClock(),
            on_chunks=lambda chunks: self._arrivals.receive(chunks),
            new_seed=lambda: 0,
        )
        shapes = BaseShapes(model.name, built.module_shapes)
        for slot, folder in enumerate(adapters):
            built.bank.write(slot, load_adapter(folder, shapes, adapter_config).tensors)
        self._engine = built.engine
        self._engine.start()

    def decode(
        self, case: Case, prompts: list[list[int]], tokens: int
    ) -> tuple[float, list[list[int]]]:
        """Median seconds of a step in which all rows get a token, and each request's tokens."""
        names = [f"{case.batch}-{case.name}-{i}" for i in range(case.batch)]
        arrivals = self._arrivals = _Arrivals({name: [] for name in names}, live=set(names))
        sampling = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        for name, prompt, mixture in zip(names, prompts, case.mixtures, strict=True):
            request = GenerationRequest(
                RequestId(name), TenantId("bench"), tuple(prompt), sampling, _DECISION
            )
            slots = tuple((Slot(slot), weight) for slot, weight in mixture)
            self._engine.submit(request, name, slots)
        arrivals.done.wait()
        if arrivals.failed:
            raise RuntimeError(f"requests failed: {arrivals.failed}")
        whole = [
            now - before
            for (before, _), (now, count) in zip(
                arrivals.steps[:-1], arrivals.steps[1:], strict=True
            )
            if count == case.batch
        ]
        return statistics.median(whole[1:]), [arrivals.tokens[name] for name in names]

    def stop(self) -> None:
        """End the step thread."""
        self._engine.stop(drain=False, timeout_s=10.0)


class _StepTimes(transformers.StoppingCriteria):
    """Never stops; notes the time of each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, *_scores: Any, **_options: Any) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


class Reference:
    """transformers' model, with PEFT's adapters."""

    def __init__(self, model: Path, adapters: Sequence[Path]) -> None:
        base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        base.eval()
        self._base = base
        self._peft: peft.PeftModel | None = None
        self._folders = adapters
        self._merged: set[str] = set()

    def name(self, case: Case) -> str:
        """What computes the reference's figure."""
        return "PEFT" if any(case.mixtures) else "transformers"

    def decode(self, case: Case, prompts: list[list[int]], tokens: int) -> float:
        """Median seconds of a step of ``generate``."""
        times = _StepTimes()
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            self._model(case).generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                stopping_criteria=transformers.StoppingCriteriaList([times]),
                **self._options(case),
            )
        gaps = [now - before for before, now in zip(times.times[:-1], times.times[1:], strict=True)]
        return statistics.median(gaps[1:])

    def distance(self, case: Case, prompts: list[list[int]], answers: list[list[int]]) -> float:
        """Largest distance of an answer's token from the likeliest one, in logits."""
        ids = torch.tensor(
            [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        )
        length = len(answers[0])
        with torch.inference_mode():
            logits = self._model(case)(
                input_ids=ids, logits_to_keep=length + 1, **self._options(case)
            ).logits[:, :-1]
        chosen = logits.gather(2, torch.tensor(answers)[:, :, None])[:, :, 0]
        return float((logits.max(dim=-1).values - chosen).max())

    def _model(self, case: Case) -> Any:
        if not any(case.mixtures):
            return self._base
        if self._peft is None:
            self._peft = peft.PeftModel.from_pretrained(
                self._base, str(self._folders[0]), adapter_name="0"
            )
            for index, folder in enumerate(self._folders[1:], start=1):
                self._peft.load_adapter(str(folder), adapter_name=str(index))
            self._peft.eval()
        for mixture in case.mixtures:
            name = _adapter_name(mixture)
            if len(mixture) > 1 and name not in self._merged:
                self._peft.add_weighted_adapter(
                    [str(slot) for slot, _ in mixture],
                    [weight for _, weight in mixture],
                    name,
                    combination_type="cat",
                )
                self._merged.add(name)
        self._peft.eval()
        return self._peft

    def _options(self, case: Case) -> dict[str, Any]:
        if not any(case.mixtures):
            return {}
        names = [_adapter_name(mixture) for mixture in case.mixtures]
        if len(set(names)) == 1:
            assert self._peft is not None
            self._peft.set_adapter(names[0])
            return {}
        return {"adapter_names": names}


def _adapter_name(mixture: Mixture) -> str:
    return "+".join(str(slot) for slot, _ in mixture)


_DECISION = RoutingDecision(
    id=DecisionId("dec_bench"),
    tenant=TenantId("bench"),
    router="explicit",
    router_version="1",
    granularity=Granularity.REQUEST,
    mixture=(),
    source=DecisionSource.EXPLICIT,
    candidates_digest="",
    prompt_digest="",
    created_at=0.0,
    expires_at=float("inf"),
)


def measure(model: Path, tokens: int, threads: int, seed: int) -> list[Row]:
    """All rows. Raises RuntimeError where the reference would have chosen another token."""
    if threads:
        torch.set_num_threads(threads)
    vocab = transformers.AutoConfig.from_pretrained(model).vocab_size
    generator = torch.Generator().manual_seed(seed)
    rows: list[Row] = []
    base: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        aliases = write_adapters(model, Path(folder), ADAPTERS, RANK, seed)
        adapters = [Path(folder) / alias for alias in aliases]
        engine = EngineUnderTest(model, adapters, threads)
        reference = Reference(model, adapters)
        for case in cases():
            prompts = torch.randint(
                vocab, (case.batch, PROMPT_TOKENS), generator=generator
            ).tolist()
            step, answers = engine.decode(case, prompts, tokens)
            distance = reference.distance(case, prompts, answers)
            if not distance <= MARGIN:
                raise RuntimeError(
                    f"{case.name} at batch {case.batch}: {reference.name(case)} prefers another "
                    f"token by {distance:.4f}, expected at most {MARGIN}"
                )
            reference_step = reference.decode(case, prompts, max(6, tokens // 4))
            base.setdefault(case.batch, step)
            rows.append(
                Row(
                    name=case.name,
                    batch=case.batch,
                    step_ms=step * 1e3,
                    tokens_per_s=case.batch / step,
                    ratio_to_base=base[case.batch] / step,
                    reference=reference.name(case),
                    reference_tokens_per_s=case.batch / reference_step,
                    speedup=reference_step / step,
                )
            )
            print(_line(rows[-1]), flush=True)
        engine.stop()
    return rows


_HEADER = (
    f"{'batch':>5}  {'adapters':<18}{'ms/step':>9}{'tokens/s':>10}{'of base':>9}"
    f"   {'reference':<14}{'tokens/s':>9}{'speed-up':>10}"
)


def _line(row: Row) -> str:
    return (
        f"{row.batch:>5}  {row.name:<18}{row.step_ms:>9.1f}{row.tokens_per_s:>10.1f}"
        f"{row.ratio_to_base:>9.2f}   {row.reference:<14}{row.reference_tokens_per_s:>9.1f}"
        f"{row.speedup:>9.2f}x"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of the base model")
    parser.add_argument("--tokens", type=int, default=32, help="decoded per request")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves the library's choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    print(_HEADER)
    try:
        rows = measure(options.model, options.tokens, options.threads, options.seed)
    except RuntimeError as error:
        sys.exit(f"stopped: {error}")
    if options.json is not None:
        machine = {
            "machine": platform.machine(),
            "threads": options.threads or torch.get_num_threads(),
            "torch": torch.__version__,
            "model": options.model.name,
            "tokens": options.tokens,
        }
        document = {**machine, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
