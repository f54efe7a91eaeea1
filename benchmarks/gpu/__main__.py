"""``python -m benchmarks.gpu``: tests, kernels and steps on one GPU in under eight minutes.

Nothing is fetched: models have random weights, built on the device. ``--device cpu`` rehearses all
phases at tiny sizes, with Triton's kernels in its interpreter; its figures mean nothing.
"""

import argparse
import os
import shlex
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.gpu_page import write_page
from benchmarks.gpu.gpu_tables import tables_of
from benchmarks.gpu.phase_run import read_lines
from benchmarks.gpu.phases import Phase, PhaseEnd, output_of, run_phases
from benchmarks.shared.command_line import without_places

PROGRAM = "python -m benchmarks.gpu"
_SHOWN = 12
"""Lines that are shown of what a failed phase printed."""


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--peer", type=Path, help="folder of vLLM's unpacked wheel, whose LoRA kernels take part"
    )
    parser.add_argument(
        "--state",
        type=Path,
        help="folder for lines.jsonl, written as figures are found, and each phase's output; "
        "default: a temporary one",
    )
    parser.add_argument("--out", type=Path, help="folder for gpu.md; a rehearsal writes none")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status, 1 if a phase failed."""
    words = sys.argv[1:] if arguments is None else arguments
    options = _options(words)
    folder = options.state or Path(tempfile.mkdtemp(prefix="braid-gpu-"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lines.jsonl").unlink(missing_ok=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    ends: list[PhaseEnd] = []
    tests = "not run"
    for end in run_phases(options.device, folder, environment, options.peer, on_begin=_announce):
        ends.append(end)
        print(f"  {end.text} after {end.seconds:.0f} s", flush=True)
        printed = output_of(end.phase, folder).splitlines()
        if end.phase.module == "pytest" and printed:
            tests = printed[-1].strip("= ")
            print(f"  {tests}")
        if end.status:
            print("\n".join(f"  | {line}" for line in printed[-_SHOWN:]), flush=True)
    lines = list(read_lines(folder / "lines.jsonl"))
    for table in tables_of(lines):
        print(f"\n{table.as_text()}")
    print(f"\n{sum(end.seconds for end in ends):.0f} s; figures and output: {folder}")
    if options.out is not None and options.device == "cuda":
        command = shlex.join([*PROGRAM.split(), *without_places(words)])
        print(write_page(options.out, command, lines, ends, tests))
    return 1 if any(end.status != 0 for end in ends) else 0


def _announce(phase: Phase) -> None:
    print(f"{phase.name}, at most {phase.limit_s:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
