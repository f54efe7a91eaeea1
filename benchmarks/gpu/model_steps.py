"""A random model's steps: decode, sampled, mixed and prefill, captured or launched one by one."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.engine.cases import Mixture
from benchmarks.engine.step_view import StepView
from benchmarks.gpu.device_time import device_us, synchronize
from benchmarks.gpu.phase_run import PhaseRun
from benchmarks.gpu.random_models import build_on
from benchmarks.gpu.workloads import RANK
from cluster.config import AdapterConfig, EngineConfig
from cluster.engine.execution.cuda_graphs import CapturedStep, CudaCapture, bucket_for
from cluster.engine.execution.step_batches import StepBatches, TorchBatches, triton_batches
from cluster.engine.model.model_loader import LoadedModel, load_model
from kernels.lora.bank import AdapterBank

BLOCK = 16


@dataclass(frozen=True, slots=True)
class StepRoom:
    """The bounds of a measured engine."""

    rows: int
    tokens: int  # of a step
    max_len: int
    kv_tokens: int
    slots: int


@dataclass(slots=True)
class _RememberedSteps:
    """Captures, and keeps what it has captured by rows: the base's, then that with adapters."""

    capture: CudaCapture
    by_rows: dict[int, list[CapturedStep]] = field(default_factory=dict)

    def __call__(self, compute: Callable[[], torch.Tensor]) -> CapturedStep:
        step = self.capture(compute)
        self.by_rows.setdefault(step.logits.shape[0], []).append(step)
        return step


class ModelSteps(StepView):
    """A random model with every slot of its bank filled."""

    def __init__(self, run: PhaseRun, room: StepRoom, folder: Path, *, graphs: bool) -> None:
        """Build the model and record the seconds and the memory that it takes."""
        self._run = run
        config = EngineConfig(
            dtype="float32" if run.is_rehearsal else "bfloat16",
            device="cpu" if run.is_rehearsal else "cuda",
            max_model_len=room.max_len,
            block_size=BLOCK,
            kv_blocks=-(-room.kv_tokens // BLOCK),
            max_batch_size=room.rows,
            max_batch_tokens=room.tokens,
            cuda_graphs=graphs,
        )
        adapters = AdapterConfig(slots=room.slots, max_rank=RANK, memory_bytes=2**40)
        self._remembered: _RememberedSteps | None = None
        began = time.perf_counter()
        loaded = load_model(
            run.size.write_config(folder / run.size.name), config, partial(build_on, run.device)
        )
        synchronize(run.device)
        built = time.perf_counter()
        make = None if run.is_rehearsal else partial(self._make, loaded, config)
        super().__init__(loaded, config, adapters, make)
        synchronize(run.device)
        ready = time.perf_counter()
        self._last_block = config.usual_kv_blocks - 1
        placed = self._fill(loaded)
        memory = {}
        if not run.is_rehearsal:
            free, total = torch.cuda.mem_get_info()
            memory = {
                "used_gib": round((total - free) / 2**30, 1),
                "allocated_gib": round(torch.cuda.memory_allocated() / 2**30, 1),
            }
        run.record(
            "build",
            size=run.size.name,
            graphs=graphs,
            model_s=round(built - began, 1),
            runner_s=round(ready - built, 1),
            place_ms=median(placed) * 1e3,
            **memory,
        )

    def mixed(
        self, mixtures: Sequence[Mixture], context: int, prompt: int, repeats: int
    ) -> list[float]:
        """Measure the seconds of steps in which the last row's prompt is computed along with a
        token of each other row."""
        *others, last = mixtures
        decoding = self._sequences(others, context, context + repeats + 2)
        taken = []
        for done in range(repeats + 1):
            (new,) = self._sequences([last], prompt, prompt + 1)
            blocks = -(-(prompt + 1) // BLOCK)
            new.block_table = [self._last_block - block for block in range(blocks)]
            at = context - 1 + done
            taken.append(self._execute([(each, at, 1) for each in decoding] + [(new, 0, prompt)]))
        return taken[1:]

    def replay_us(self, rows: int, adapters: bool) -> float | None:
        """Return the microseconds of a captured step by the device's clock, over what its buffers
        hold now; None if nothing is captured."""
        if self._remembered is None:
            return None
        bucket = bucket_for(rows, sorted(self._remembered.by_rows))
        if bucket is None:
            return None
        step = self._remembered.by_rows[bucket][int(adapters)]
        return device_us(step.replay, self._run.device, 0.2)

    def _make(self, loaded: LoadedModel, config: EngineConfig, bank: AdapterBank) -> StepBatches:
        if config.cuda_graphs:
            self._remembered = _RememberedSteps(CudaCapture())
        larger = TorchBatches(bank, config.block_size, loaded.dtype, loaded.device)
        batches = triton_batches(loaded, config, bank, larger, self._remembered)
        batches.compile()
        return batches

    def _fill(self, loaded: LoadedModel) -> list[float]:
        """Fill every slot with the same values; returns the seconds of each copy."""
        generator = torch.Generator().manual_seed(0)
        packed = self.bank.pack(
            {
                path: (
                    torch.randn(RANK, site.in_features, generator=generator) * 0.01,
                    torch.randn(width, RANK, generator=generator) * 0.01,
                    1.0,
                )
                for site in loaded.sites[: loaded.head_site]
                for path, width in site.out_slices
            }
        )
        taken = []
        for slot in range(self.bank.slots):
            began = time.perf_counter()
            self.bank.place(slot, packed)
            taken.append(time.perf_counter() - began)
        return taken
