"""A run as a page for people."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.gpu_tables import tables_of
from benchmarks.gpu.phase_run import Line
from benchmarks.gpu.phases import PhaseEnd

_DESCRIBING = ("kind", "at_s")


def write_page(
    folder: Path, command: str, lines: Sequence[Line], ends: Sequence[PhaseEnd], tests: str
) -> Path:
    """Write gpu.md into a folder, which is made if it is not there.

    Args:
        folder: where to.
        command: that found the figures.
        lines: all that phases have recorded.
        ends: of the phases.
        tests: the last line of the tests.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gpu.md"
    path.write_text(render_page(command, lines, ends, tests), encoding="utf-8")
    return path


def render_page(command: str, lines: Sequence[Line], ends: Sequence[PhaseEnd], tests: str) -> str:
    """Render the page; arguments as of ``write_page``."""
    described = {line["kind"]: line for line in lines if line["kind"] in ("device", "versions")}
    parts = [
        "# One GPU",
        f"Written by `{command}`; do not edit. Models have random weights of the sizes of Llama "
        "3.2 1B and Llama 3.1 8B, in bf16, and adapters of rank 16 on all linears.",
        *(
            ", ".join(f"{key} {value}" for key, value in line.items() if key not in _DESCRIBING)
            for line in described.values()
        ),
        f"Tests on the device: {tests}",
        "Phases: "
        + "; ".join(f"{end.phase.name} {end.text} after {end.seconds:.0f} s" for end in ends),
    ]
    parts += [table.as_markdown() for table in tables_of(lines)]
    return "\n\n".join(parts) + "\n"
