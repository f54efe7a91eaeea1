"""Draws docs/pictures/program_layout.svg: how a decode program of native kernels lies in memory.

Run ``python docs/pictures/program_layout.py`` to write it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 1040, 668
ROW = 26
INK, FAINT = "#1f2933", "#7b8794"
TABLE, WORDS, STEP, DATA = "#dbeafe", "#fde68a", "#dcfce7", "#f3e8ff"

ENTRIES = (
    ("kernel: norm", "words"),
    ("kernel: product q/k/v", "words"),
    ("kernel: LoRA, phase 0", "words"),
    ("kernel: LoRA, phase 1", "words"),
    ("kernel: rotate and store", "words"),
    ("kernel: attention", "words"),
    ("…", "…"),
    ("kernel: product, head", "words"),
)
CALLS = (
    "x, weight, out, rows, width, stride, eps, addend",
    "panels and bias, x, y, width, rows, tile, next panel",
    "→ step, → weights, x, stride, y, stride, site, phase",
    "→ step, → weights, x, stride, y, stride, site, phase",
    "qkv, …, cos, sin, …, cache, → kv_indices",
    "→ step, q, stride, out, cache, …, scale",
    "…",
    "panels and bias, x, y, width, rows, tile, next panel",
)
STEP_TABLES = (
    ("attention step (one for each window)", "block tables, positions seen, scratch"),
    ("LoRA step", "groups, tokens, z, how work is divided"),
    ("weights of each site", "address, stride of a pair and of a slice"),
    ("kv_indices [rows]", "where each token is stored"),
)
BUFFERS = (
    "x [rows, hidden] · residual stream",
    "normed [rows, hidden]",
    "qkv [rows, (H + 2 H_kv) D]",
    "attended, o, gate_up, gated, down",
    "logits [rows, vocabulary]",
    "cos, sin [rows, D]",
    "scratch · of the products",
)


def text(
    x: float, y: float, words: str, *, size: int = 13, ink: str = INK, bold: bool = False
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{ink}"{weight}>{escape(words)}</text>'


def cell(x: float, y: float, width: float, words: str, fill: str) -> Iterator[str]:
    yield (
        f'<rect x="{x}" y="{y}" width="{width}" height="{ROW}" fill="{fill}" stroke="{INK}" '
        'stroke-width="0.8"/>'
    )
    yield text(x + 8, y + 17.5, words, size=12)


def column(x: float, y: float, width: float, rows: Sequence[str], fill: str) -> Iterator[str]:
    for index, words in enumerate(rows):
        yield from cell(x, y + index * ROW, width, words, fill)


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    middle = (x1 + x2) / 2
    path = f"M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}"
    return (
        f'<path d="{path}" fill="none" stroke="{FAINT}" stroke-width="1.3" marker-end="url(#tip)"/>'
    )


def drawing() -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="system-ui, sans-serif">'
    )
    yield (
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{FAINT}"/></marker></defs>'
    )
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    yield text(24, 32, "A Program in memory: one decode step of a CPU", size=18, bold=True)
    yield text(24, 52, "int64 words; every arrow is an address", ink=FAINT)

    top = 96
    yield text(24, top - 10, "_entries: one pair for each operation", bold=True)
    for index, (kernel, words) in enumerate(ENTRIES):
        yield from cell(24, top + index * ROW, 180, kernel, TABLE)
        yield from cell(204, top + index * ROW, 60, words, TABLE)
    yield text(330, top - 10, "_words: each operation's own, one after another", bold=True)
    yield from column(330, top, 350, CALLS, WORDS)
    for index in range(len(ENTRIES)):
        y = top + index * ROW + ROW / 2
        yield arrow(264, y, 328, y)
    after = top + len(CALLS) * ROW
    yield text(330, after + 18, "kernels may write here (next panel), so a run begins", ink=FAINT)
    yield text(330, after + 34, "with one memmove of _pristine over _words", ink=FAINT)
    yield from cell(330, after + 44, 350, "_pristine: the words as they were built", WORDS)
    yield f'<path d="M505,{after + 44} v-4" stroke="{FAINT}" marker-end="url(#tip)"/>'

    yield text(740, top - 10, "step tables: filled before each run", bold=True)
    for index, (name, what) in enumerate(STEP_TABLES):
        y = top + index * 2 * ROW
        yield from cell(740, y, 276, name, STEP)
        yield from cell(740, y + ROW, 276, what, "white")
    for row, target in ((2, 1), (3, 2), (4, 3), (5, 0)):
        yield arrow(680, top + row * ROW + ROW / 2, 738, top + target * 2 * ROW + ROW / 2)

    low = 420
    yield text(740, low - 10, "StepBuffers: allocated once", bold=True)
    yield from column(740, low, 276, BUFFERS, DATA)
    yield arrow(680, top + 1 * ROW + ROW / 2 + 6, 738, low + 1.5 * ROW)
    yield arrow(680, top + 7 * ROW + ROW / 2, 738, low + 4 * ROW + ROW / 2)

    yield text(24, low - 10, "run(threads): one parallel region", bold=True)
    steps = (
        "1  copy _pristine over _words",
        "2  start the team on torch's threads",
        "3  each thread, for each entry:",
        "\u2003kernel(words, thread, threads)",
        "\u2003barrier: all see what all have written",
        "4  at a cut (a layer is entered): return, let a",
        "\u2003gate set weights, start at the next entry",
    )
    for index, step in enumerate(steps):
        yield text(24, low + 16 + index * 22, step)
    yield arrow(40, low - 26, 40, top + len(ENTRIES) * ROW + 4)

    yield text(330, low + 60, "Fixed: entries, words, tables, buffers. So a step costs", ink=FAINT)
    yield text(330, low + 78, "one call, whatever its number of kernels. A program is", ink=FAINT)
    yield text(330, low + 96, "built for (rows, adapters, LoRA on the head, threads)", ink=FAINT)
    yield text(330, low + 114, "and kept; larger buffers end all programs.", ink=FAINT)
    yield "</svg>"


def main() -> None:
    """Write the picture next to this file."""
    Path(__file__).with_suffix(".svg").write_text("\n".join(drawing()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
