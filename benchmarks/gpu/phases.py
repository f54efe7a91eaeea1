"""The phases of a run, each a process of its own: one that fails or is late takes nothing from the
others."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

BUDGET_S = 465.0
"""Seconds of a whole run."""
_LEAST_S = 20.0
"""A phase with less time than this is left out."""
_CLOSING_S = 8.0
"""Of a phase's limit, in which it should begin nothing more."""
_TESTS = (
    "tests/kernels/triton/test_on_gpu.py",
    "tests/cluster/engine/execution/test_cuda_graphs.py",
    "tests/cluster/engine/execution/test_step_batches.py",
)


@dataclass(frozen=True, slots=True)
class Phase:
    """One process of a run."""

    name: str
    limit_s: float
    module: str  # of this package, or "pytest"
    size: str = ""
    interpreted: bool = False  # in a rehearsal, Triton's kernels run in its interpreter


def phases_of(device: str) -> tuple[Phase, ...]:
    """Return the phases for a device, the most telling first."""
    small, large = ("tiny", "tiny") if device == "cpu" else ("1b", "8b")
    own = (
        Phase("ceilings", 40, "ceilings", large),
        Phase("tests", 120, "pytest"),
        Phase("LoRA kernels", 80, "lora_times", large, interpreted=True),
        Phase("attention kernels", 50, "attention_times", large, interpreted=True),
        Phase("steps, small model", 75, "step_times", small),
        Phase("profile", 50, "step_profile", small),
    )
    if device == "cpu":
        return own
    return (*own, Phase("steps, large model", 120, "step_times", large))


@dataclass(frozen=True, slots=True)
class PhaseEnd:
    """The end of a phase."""

    phase: Phase
    seconds: float
    status: int | None  # None: it was stopped at its limit, or had no time

    @property
    def text(self) -> str:
        """Its end in words."""
        if self.status is None:
            return "stopped" if self.seconds else "no time left"
        return "done" if self.status == 0 else f"failed with status {self.status}"


def run_phases(
    device: str,
    folder: Path,
    environment: dict[str, str],
    peer: Path | None = None,
    *,
    on_begin: Callable[[Phase], None],
) -> Iterator[PhaseEnd]:
    """Run the phases one after the other; yields each one's end.

    Args:
        device: "cuda" or "cpu".
        folder: for ``lines.jsonl``, and a text file of each phase's output.
        environment: of the processes.
        peer: folder of vLLM's unpacked kernels, for the LoRA phase.
        on_begin: called with each phase before it begins.
    """
    began = time.perf_counter()
    for phase in phases_of(device):
        limit = min(phase.limit_s, BUDGET_S - (time.perf_counter() - began))
        if limit < _LEAST_S:
            yield PhaseEnd(phase, 0.0, None)
            continue
        on_begin(phase)
        own = dict(environment)
        if device == "cpu":
            own["OMP_NUM_THREADS"] = "1"  # sizes are tiny
            if phase.interpreted:
                own["TRITON_INTERPRET"] = "1"
        at = time.perf_counter()
        with (folder / f"{phase.module}-{phase.size or 'all'}.txt").open("w") as output:
            status: int | None
            try:
                status = subprocess.run(
                    _command(phase, device, folder, limit, peer),
                    env=own,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=limit,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                status = None
        yield PhaseEnd(phase, time.perf_counter() - at, status)


def output_of(phase: Phase, folder: Path) -> str:
    """Return what a phase printed."""
    path = folder / f"{phase.module}-{phase.size or 'all'}.txt"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _command(phase: Phase, device: str, folder: Path, limit: float, peer: Path | None) -> list[str]:
    if phase.module == "pytest":
        return [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *_TESTS]
    words = [sys.executable, "-m", f"benchmarks.gpu.{phase.module}", "--device", device]
    words += ["--size", phase.size, "--seconds", str(limit - _CLOSING_S)]
    words += ["--lines", str(folder / "lines.jsonl")]
    if phase.module == "lora_times" and peer is not None:
        words += ["--peer", str(peer)]
    return words
