"""Runs it all: correctness, the machine's peaks, generations and their reference, single steps.

Everything is interleaved: a round goes through all cases once, so that a machine that slows down
for a while slows all of them down. The machine's peaks are measured before, between and after, and
the best is kept: the bound must not profit from a busy moment.
"""

import gc
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers

from benchmarks.engine.bank_loading import AdapterShelf
from benchmarks.engine.cases import BASE, Case, case_named
from benchmarks.engine.correctness import Agreement, check_correctness
from benchmarks.engine.engine_run import EngineRun
from benchmarks.engine.options import STEPS, BenchOptions
from benchmarks.engine.peaks import gemm_peak, read_bandwidth
from benchmarks.engine.reference import Reference
from benchmarks.engine.results import (
    CorrectnessNote,
    EngineReport,
    GenerationRow,
    MachineNote,
    RunNote,
    StepRow,
    generation_row,
    step_row,
)
from benchmarks.engine.roofline import Machine, ModelSizes, generation_bound, sizes_of, step_bound
from benchmarks.engine.step_view import StepView
from benchmarks.shared.machine import cpu_info, load_average, torch_build, usable_cores
from benchmarks.shared.quiet import quiet
from cluster.config import AdapterConfig, EngineConfig
from cluster.engine.model.model_loader import load_model

Progress = Callable[[str, str, int, int | None], None]
"""Called with a phase, what it is at, units done and units in all."""

GENERATION_SHARE = 0.65
"""Of the time budget, for whole generations; the steps have the rest."""

_Key = tuple[str, int]  # case, batch


class Bench:
    """One run; ``report`` does it."""

    def __init__(self, options: BenchOptions, progress: Progress) -> None:
        """Prepare a run.

        Args:
            options: what to measure.
            progress: called with each step of the run.
        """
        self._options = options
        self._progress = progress
        self._config: EngineConfig = options.engine_config()
        self._adapter_config = AdapterConfig(slots=options.adapters)
        self._dtype: torch.dtype = getattr(torch, options.dtype)
        self._weights = torch.int8 if options.quantize else self._dtype
        self._peaks: list[tuple[float, float, float]] = []  # GEMM, linear, bandwidth

    def report(self) -> EngineReport:
        """Measure everything and return the report.

        Raises:
            BenchmarkRefused: the engine disagrees with the reference.
            BraidError: the model or an adapter cannot be loaded, or a request failed.
        """
        options = self._options
        began, load_before = time.perf_counter(), load_average()
        threads = torch.get_num_threads()
        torch.set_num_threads(options.threads)
        with quiet():
            self._progress("preparing", "adapters", 0, 3)
            shelf = AdapterShelf(options.model, options.adapters, options.rank, options.seed)
            try:
                checks, modules, generations = self._generations(shelf)
                decode, prefill = self._steps(shelf)
                self._measure_peaks()
            finally:
                shelf.close()
                torch.set_num_threads(threads)
        sizes = self._sizes(modules)
        machine = Machine(*(max(column) for column in zip(*self._peaks, strict=True)))
        return EngineReport(
            machine=self._machine_note(machine, load_before),
            run=RunNote(
                model=options.model_name,
                parameters=sizes.linear_weights + sizes.head_weights,
                dtype=options.dtype,
                quantize=options.quantize,
                rank=options.rank,
                prompt_tokens=options.prompt_tokens,
                output_tokens=options.output_tokens,
                seed=options.seed,
                seconds=time.perf_counter() - began,
            ),
            correctness=tuple(
                CorrectnessNote(
                    name=check.name,
                    rms=check.rms,
                    limit=check.limit,
                    token_gap=check.token_gap,
                    sensitivity=check.sensitivity,
                )
                for check in checks
            ),
            decode=self._step_rows(sizes, machine, decode, decoding=True),
            prefill=self._step_rows(sizes, machine, prefill, decoding=False),
            generation=self._generation_rows(sizes, machine, generations),
        )

    def _generations(
        self, shelf: AdapterShelf
    ) -> tuple[tuple[Agreement, ...], dict[str, tuple[int, int]], "_Generations"]:
        """Check correctness, then time the engine's generations and the reference's in turns."""
        options = self._options
        engine = EngineRun(options.model, self._config, self._adapter_config)
        try:
            shelf.read(engine.modules, self._adapter_config)
            self._progress("preparing", "reference", 1, 3)
            # The scores of the check are fp32's; speed is compared in the engine's own dtype.
            reference = Reference(options.model, shelf.folders[:16], torch.float32)
            self._progress("preparing", "correctness check", 2, 3)
            checks = check_correctness(
                engine,
                shelf,
                reference,
                weights=self._weights,
                vocab_size=self._vocab_size(),
                seed=options.seed,
            )
            self._progress("preparing", "done", 3, 3)
            if self._dtype != torch.float32:
                reference = Reference(options.model, shelf.folders[:16], self._dtype)
            self._measure_peaks()
            return checks, engine.modules, self._generate(engine, shelf, reference)
        finally:
            engine.stop()
            del engine
            gc.collect()

    def _generate(
        self, engine: EngineRun, shelf: AdapterShelf, reference: Reference
    ) -> "_Generations":
        options = self._options
        found = _Generations()
        deadline = time.perf_counter() + GENERATION_SHARE * options.budget_s
        total = len(options.generations) * options.generation_rounds
        if options.generations:  # untimed: first uses of memory, code and PEFT's adapters
            mixtures = case_named("adapters-1").mixtures(2)
            prompts = self._prompts(2, 0)
            shelf.fill(engine.bank, 1)
            engine.generate(prompts, mixtures, 3)
            reference.generate(prompts, mixtures, 3)
            reference.generate(prompts, [(), ()], 3)
        for number in range(options.generation_rounds):
            if number and time.perf_counter() > deadline:
                break
            for index, (name, batch, compared) in enumerate(options.generations):
                case = case_named(name)
                where = f"{case.title}, batch {batch}"
                done = number * len(options.generations) + index
                self._progress("generating", where, done, total)
                mixtures = case.mixtures(batch)
                prompts = self._prompts(batch, number)
                shelf.fill(engine.bank, case.loaded)
                ours = engine.generate(prompts, mixtures, options.output_tokens)
                found.ours.setdefault((name, batch), []).append((ours.seconds, ours.step_s))
                if compared:
                    self._progress("generating", f"{where}, reference", done, total)
                    theirs = reference.generate(prompts, mixtures, options.output_tokens)
                    found.theirs.setdefault((name, batch), []).append(theirs)
                    found.names[name, batch] = reference.name(mixtures)
        self._progress("generating", "done", total, total)
        return found

    def _steps(self, shelf: AdapterShelf) -> tuple["_Rounds", "_Rounds"]:
        """Decode and prefill steps, by case and batch: seconds of each round's steps."""
        options = self._options
        self._measure_peaks()
        view = StepView(load_model(options.model, self._config), self._config, self._adapter_config)
        decode: _Rounds = {}
        prefill: _Rounds = {}
        together = self._prompts_together()
        deadline = time.perf_counter() + (1 - GENERATION_SHARE) * options.budget_s
        total = options.rounds * len(options.batches)
        shelf.fill(view.bank, 1)
        for batch in options.batches:  # untimed; fills the cache's blocks
            view.prefill(case_named("adapters-1").mixtures(min(batch, together)), 16)
        for number in range(options.rounds):
            if number and time.perf_counter() > deadline:
                break
            context = options.prompt_tokens + STEPS * number
            for index, batch in enumerate(options.batches):
                self._progress(
                    "single steps", f"batch {batch}", number * len(options.batches) + index, total
                )
                for case in self._cases(batch):
                    shelf.fill(view.bank, case.loaded)
                    steps = view.decode(case.mixtures(batch), context, STEPS)
                    decode.setdefault((case.name, batch), []).append(steps)
                    # A step has room for so many prompts and no more.
                    prompts = min(batch, together)
                    taken = prefill.setdefault((case.name, prompts), [])
                    if len(taken) == number:
                        mixtures = case.mixtures(prompts)
                        taken.append([view.prefill(mixtures, options.prompt_tokens)])
        self._progress("single steps", "done", total, total)
        return decode, prefill

    def _step_rows(
        self, sizes: ModelSizes, machine: Machine, found: "_Rounds", *, decoding: bool
    ) -> tuple[StepRow, ...]:
        options = self._options
        rows = []
        for (name, batch), rounds in found.items():
            case = case_named(name)
            tokens = 1 if decoding else options.prompt_tokens
            # Each round's steps continue from the last round's end.
            middle = options.prompt_tokens + (STEPS * len(rounds) - 1) / 2
            context = middle if decoding else 0.0
            rows.append(
                step_row(
                    case=name,
                    title=case.title,
                    batch=batch,
                    tokens=tokens,
                    context=context,
                    rounds=rounds,
                    base_rounds=found[BASE.name, batch],
                    bound=step_bound(
                        sizes, machine, case.mixtures(batch), tokens=tokens, context=context
                    ),
                )
            )
        return tuple(sorted(rows, key=lambda row: row.batch))

    def _generation_rows(
        self, sizes: ModelSizes, machine: Machine, found: "_Generations"
    ) -> tuple[GenerationRow, ...]:
        options = self._options
        rows = []
        for (name, batch), ours in found.ours.items():
            case = case_named(name)
            base = found.ours.get((BASE.name, batch))
            theirs = found.theirs.get((name, batch), [])
            rows.append(
                generation_row(
                    case=name,
                    title=case.title,
                    batch=batch,
                    output=options.output_tokens,
                    seconds=[seconds for seconds, _ in ours],
                    steps=[step for _, step in ours],
                    base_seconds=None if base is None else [seconds for seconds, _ in base],
                    bound_s=generation_bound(
                        sizes,
                        machine,
                        case.mixtures(batch),
                        prompt=options.prompt_tokens,
                        output=options.output_tokens,
                        together=self._prompts_together(),
                    ),
                    reference=found.names.get((name, batch)),
                    reference_seconds=[seconds for seconds, _ in theirs],
                    reference_steps=[step for _, step in theirs],
                )
            )
        return tuple(rows)

    def _cases(self, batch: int) -> Iterator[Case]:
        return (case for case in self._options.cases if case.fits(batch))

    def _prompts(self, batch: int, number: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self._options.seed + 1000 * number + batch)
        shape = (batch, self._options.prompt_tokens)
        tokens: list[list[int]] = torch.randint(
            self._vocab_size(), shape, generator=generator
        ).tolist()
        return tokens

    def _prompts_together(self) -> int:
        """Count the prompts that the scheduler puts into one step."""
        return max(1, self._config.max_batch_tokens // self._options.prompt_tokens)

    def _vocab_size(self) -> int:
        return int(self._model_config().vocab_size)

    def _model_config(self) -> Any:
        return transformers.AutoConfig.from_pretrained(self._options.model, local_files_only=True)

    def _sizes(self, modules: dict[str, tuple[int, int]]) -> ModelSizes:
        config = self._model_config()
        heads = config.num_attention_heads
        fields = {
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": heads,
            "num_key_value_heads": getattr(config, "num_key_value_heads", None) or heads,
            "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads,
        }
        return sizes_of(
            fields,
            modules,
            self._options.rank,
            weight_bytes=self._weights.itemsize,
            value_bytes=self._dtype.itemsize,
        )

    def _measure_peaks(self) -> None:
        options = self._options
        self._progress("machine", "products and memory", len(self._peaks), 3)
        gemm = linear = gemm_peak(self._dtype, options.peak_seconds, options.peak_shapes)
        if self._weights != self._dtype:
            linear = gemm_peak(self._weights, options.peak_seconds, options.peak_shapes)
        read = read_bandwidth(options.peak_seconds, options.peak_bytes)
        self._peaks.append((gemm, linear, read))
        self._progress("machine", "products and memory", len(self._peaks), 3)

    def _machine_note(self, machine: Machine, load_before: float) -> MachineNote:
        cpu, isa = cpu_info()
        return MachineNote(
            cpu=cpu,
            isa=isa,
            cores=usable_cores(),
            threads=self._options.threads,
            torch=torch_build(),
            python=platform.python_version(),
            load_before=load_before,
            load_after=load_average(),
            gemm_gflops=machine.gemm_flops / 1e9,
            linear_gflops=machine.linear_flops / 1e9,
            bandwidth_gbs=machine.bandwidth / 1e9,
            peak_samples=tuple((g / 1e9, li / 1e9, b / 1e9) for g, li, b in self._peaks),
        )


_Rounds = dict[_Key, list[list[float]]]


class _Generations:
    """Seconds in all and of a median step, by case and batch, a pair each round."""

    def __init__(self) -> None:
        self.ours: dict[_Key, list[tuple[float, float | None]]] = {}
        self.theirs: dict[_Key, list[tuple[float, float | None]]] = {}
        self.names: dict[_Key, str] = {}  # who the reference is


def run_bench(options: BenchOptions, progress: Progress) -> EngineReport:
    """Measure everything, as ``Bench.report`` does."""
    return Bench(options, progress).report()
