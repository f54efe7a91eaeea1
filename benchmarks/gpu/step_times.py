"""Phase: an engine's steps on a random model.

A step is timed through ``ModelRunner.execute`` as the engine calls it, its tokens on the host at
the end. A captured step is timed by the device's clock alone as well: the difference is what the
device waits for.
"""

import gc
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from benchmarks.gpu.model_steps import ModelSteps, StepRoom
from benchmarks.gpu.phase_run import PhaseRun, bandwidth
from benchmarks.gpu.workloads import BASE, MIXED, ONE, RANK, SAMPLED, WORKLOADS, Workload

_CAPTURED_PART = 0.75
"""Of the phase's time, for captured steps."""


class StepTimes:
    """The measured cases of one engine."""

    def __init__(self, run: PhaseRun, bytes_per_s: float) -> None:
        self._run, self._bytes_per_s = run, bytes_per_s
        self._batches: tuple[int, ...]
        self._prompts: tuple[int, ...]
        if run.is_rehearsal:
            self.room = StepRoom(rows=4, tokens=64, max_len=128, kv_tokens=512, slots=4)
            self._batches, self._prompts = (1, 3), (16,)
            self._context, self._steps, self._mixed_prompt = 24, 2, 16
        else:
            kv_tokens = 64 * 1024 + 4 * 8192
            self.room = StepRoom(rows=64, tokens=2048, max_len=8192, kv_tokens=kv_tokens, slots=64)
            self._batches, self._prompts = (1, 16, 64), (128, 512, 2048)
            self._context, self._steps, self._mixed_prompt = 512, 24, 256

    def decode(self, view: ModelSteps, *, graphs: bool, part: float) -> None:
        """Record decode steps of every batch and workload."""
        for batch in self._batches:
            for workload in WORKLOADS:
                if self._run.is_late(part):
                    return
                mixtures = workload.mixtures(batch, self.room.slots)
                taken = view.decode(mixtures, self._context, self._steps)
                ms = median(taken) * 1e3
                replay = view.replay_us(batch, workload is not BASE)
                bound = self._bound_ms(workload, batch)
                self._run.record(
                    "decode",
                    size=self._run.size.name,
                    graphs=graphs,
                    batch=batch,
                    workload=workload.name,
                    context=self._context,
                    ms=ms,
                    fastest_ms=min(taken) * 1e3,
                    device_ms=None if replay is None else replay / 1e3,
                    bound_ms=bound,
                    of_bound=bound / ms,
                )

    def other_steps(self, view: ModelSteps, part: float) -> None:
        """Record sampled steps, prompts, and prompts along with decodes."""
        for batch in self._batches:
            for workload in (BASE, MIXED):
                if self._run.is_late(part):
                    return
                mixtures = workload.mixtures(batch, self.room.slots)
                taken = view.decode(mixtures, self._context, self._steps, SAMPLED)
                self._record("sampled", workload, median(taken), batch=batch)
        for prompt in self._prompts:
            for workload in (BASE, ONE, MIXED):
                if self._run.is_late(part):
                    return
                mixtures = workload.mixtures(1, self.room.slots)
                seconds = min(view.prefill(mixtures, prompt) for _ in range(4))
                flops = 2 * prompt * self._run.size.linear_weights
                self._record(
                    "prefill", workload, seconds, prompt=prompt, tflops=flops / seconds / 1e12
                )
        for workload in (BASE, MIXED):
            if self._run.is_late(part):
                return
            mixtures = workload.mixtures(self.room.rows, self.room.slots)
            taken = view.mixed(mixtures, self._context, self._mixed_prompt, 4)
            self._record(
                "mixed",
                workload,
                median(taken),
                decodes=self.room.rows - 1,
                prompt=self._mixed_prompt,
            )

    def _record(self, kind: str, workload: Workload, seconds: float, **fields: object) -> None:
        self._run.record(
            kind,
            size=self._run.size.name,
            workload=workload.name,
            ms=seconds * 1e3,
            **fields,
        )

    def _bound_ms(self, workload: Workload, rows: int) -> float:
        """Compute the milliseconds to read weights, the adapters in use, and keys and values once
        at the device's best rate."""
        size, item = self._run.size, 4 if self._run.is_rehearsal else 2
        adapters = workload.distinct(rows, self.room.slots) * size.adapter_weights(RANK)
        nbytes = item * (size.linear_weights + size.head_weights + adapters)
        nbytes += rows * self._context * size.kv_bytes(item)
        return nbytes / self._bytes_per_s * 1e3


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the phase."""
    run = PhaseRun.of(arguments)
    times = StepTimes(run, bandwidth(run.lines))
    with tempfile.TemporaryDirectory() as folder:
        view = ModelSteps(run, times.room, Path(folder), graphs=not run.is_rehearsal)
        times.decode(view, graphs=not run.is_rehearsal, part=0.5)
        times.other_steps(view, _CAPTURED_PART)
        if run.is_rehearsal:
            return
        del view
        gc.collect()
        torch.cuda.empty_cache()
        view = ModelSteps(run, times.room, Path(folder), graphs=False)
        times.decode(view, graphs=False, part=1.0)


if __name__ == "__main__":
    main()
