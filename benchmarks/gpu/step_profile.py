"""Phase: torch's profiler over single steps: kernels by time, and calls of the driver."""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.device_time import synchronize
from benchmarks.gpu.model_steps import ModelSteps, StepRoom
from benchmarks.gpu.phase_run import PhaseRun
from benchmarks.gpu.workloads import MIXED, SAMPLED

_TWO = 2
"""Steps of each profiled call: the first of them groups the batch's adapters."""


def _profile(run: PhaseRun, way: str, rows: int, call: Callable[[], object]) -> None:
    call()
    synchronize(run.device)
    activities = [ProfilerActivity.CPU]
    if not run.is_rehearsal:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as found:
        call()
        synchronize(run.device)
    kernels: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in found.key_averages():
        if event.self_device_time_total:
            kernels[event.key[:70]] += event.self_device_time_total
        if event.key.startswith("cu"):
            calls[event.key] += event.count
    run.record(
        "profile",
        size=run.size.name,
        way=way,
        rows=rows,
        device_us=sum(kernels.values()) / _TWO,
        kernels={name: us / _TWO for name, us in kernels.most_common(14)},
        calls={name: count / _TWO for name, count in calls.most_common(8)},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the phase."""
    run = PhaseRun.of(arguments)
    if run.is_rehearsal:
        rows, context, prompt = 3, 24, 16
        room = StepRoom(rows=4, tokens=64, max_len=128, kv_tokens=512, slots=4)
    else:
        rows, context, prompt = 16, 512, 256
        room = StepRoom(rows=32, tokens=2048, max_len=4096, kv_tokens=32 * 1024, slots=16)
    mixtures = MIXED.mixtures(rows, room.slots)
    with tempfile.TemporaryDirectory() as folder:
        for graphs in (False,) if run.is_rehearsal else (True, False):
            view = ModelSteps(run, room, Path(folder), graphs=graphs)
            ways = {
                "captured" if graphs else "one by one": partial(view.decode, mixtures, context, 1),
            }
            if graphs or run.is_rehearsal:
                ways["sampled"] = partial(view.decode, mixtures, context, 1, SAMPLED)
                ways["mixed"] = partial(view.mixed, mixtures, context, prompt, 1)
            for way, call in ways.items():
                _profile(run, way, rows, call)
            if run.is_late():
                return


if __name__ == "__main__":
    main()
