"""A run's lines as tables, for a terminal and for a page."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.gpu.phase_run import Line

Cell = str | float | int | None

_CONTESTANTS = ("own", "grouped", "gathered", "vllm", "base")


@dataclass(frozen=True, slots=True)
class FigureTable:
    """Rows of one kind, and a line about them."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def as_text(self) -> str:
        """Return it in columns."""
        cells = [self.header, *self.rows]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.header))]
        lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
        return "\n".join([self.title, self.note, *lines])

    def as_markdown(self) -> str:
        """Return it as a section of a page."""
        lines = [f"## {self.title}", "", self.note, ""]
        lines += ["| " + " | ".join(self.header) + " |"]
        lines += ["|" + "---:|" * len(self.header)]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join(lines)


def tables_of(lines: Iterable[Line]) -> Iterator[FigureTable]:
    """Yield the tables of a run that have rows."""
    by_kind: dict[str, list[Line]] = {}
    for line in lines:
        by_kind.setdefault(line["kind"], []).append(line)
    for table in (
        _ceilings(by_kind),
        _decode(by_kind.get("decode", [])),
        _steps(by_kind),
        _lora(by_kind.get("lora", [])),
        _attention(by_kind),
        _profile(by_kind.get("profile", [])),
        _problems(by_kind.get("problem", [])),
    ):
        if table.rows:
            yield table


def _ceilings(by_kind: dict[str, list[Line]]) -> FigureTable:
    rows = [
        _row(f"memory, {x['operation']}", x["tb_per_s"], "TB/s") for x in _of(by_kind, "memory")
    ]
    rows += [
        _row(f"product of {x['size']}, bf16", x["tflops"], "TFLOP/s")
        for x in _of(by_kind, "product")
    ]
    for x in _of(by_kind, "launch"):
        rows += [_row("launch", x["us"], "us"), _row("launch in a graph", x["captured_us"], "us")]
    rows += [
        _row(f"upload, {x['what']}, {x['memory']}", x["us"], "us") for x in _of(by_kind, "upload")
    ]
    return FigureTable("Ceilings", "The machine at its best.", ("of", "rate", "unit"), tuple(rows))


def _decode(lines: Sequence[Line]) -> FigureTable:
    return FigureTable(
        "Decode steps",
        "ms of a step through `ModelRunner.execute`, and of the device alone in a captured step; "
        "the bound reads weights, the adapters in use, and keys and values once.",
        ("model", "launch", "rows", "adapters", "ms", "device ms", "bound ms", "of bound"),
        tuple(
            _row(
                x["size"],
                "captured" if x["graphs"] else "one by one",
                x["batch"],
                x["workload"],
                x["ms"],
                x["device_ms"],
                x["bound_ms"],
                f"{x['of_bound']:.0%}",
            )
            for x in lines
        ),
    )


def _steps(by_kind: dict[str, list[Line]]) -> FigureTable:
    rows = [
        _row(x["size"], f"sampled, {x['batch']} rows", x["workload"], x["ms"], None)
        for x in _of(by_kind, "sampled")
    ]
    rows += [
        _row(x["size"], f"prompt of {x['prompt']}", x["workload"], x["ms"], x["tflops"])
        for x in _of(by_kind, "prefill")
    ]
    rows += [
        _row(
            x["size"],
            f"{x['decodes']} decodes and a prompt of {x['prompt']}",
            x["workload"],
            x["ms"],
            None,
        )
        for x in _of(by_kind, "mixed")
    ]
    return FigureTable(
        "Other steps",
        "Sampled: temperature 0.8, top-p 0.95.",
        ("model", "step", "adapters", "ms", "TFLOP/s"),
        tuple(rows),
    )


def _lora(lines: Sequence[Line]) -> FigureTable:
    def cell(us: dict[str, float | str], name: str) -> Cell:
        found = us.get(name)
        return "failed" if isinstance(found, str) else found

    return FigureTable(
        "LoRA at the sites of a layer",
        "us of a layer. `own`: this project's kernels; `grouped`: torch's `grouped_mm`, pairs "
        "sorted beforehand; `gathered`: `bmm` over copies of the adapters; `vllm`: its Triton "
        "kernels, one pass for each term; `base`: the layer's own products.",
        ("rows", "tokens of each", "adapters", "distinct MB", *_CONTESTANTS),
        tuple(
            _row(
                x["rows"],
                x["tokens"],
                x["workload"],
                x["distinct_mb"],
                *(cell(x["us"], name) for name in _CONTESTANTS),
            )
            for x in lines
        ),
    )


def _attention(by_kind: dict[str, list[Line]]) -> FigureTable:
    rows = [
        _row(x["rows"], 1, x["context"], x["us"], x["torch_us"], None, f"{x['tb_per_s']:.2f} TB/s")
        for x in _of(by_kind, "attention decode")
    ]
    for x in _of(by_kind, "attention prompt"):
        ways = (x["us"], x["torch_us"], x["gathered_us"])
        rows += [_row(x["rows"], x["new"], x["context"], *ways, f"{x['tflops']:.0f} TFLOP/s")]
    return FigureTable(
        "Attention of a layer",
        "us. `torch` reads keys and values that lie side by side, without a block table; "
        "`gathered` puts them there first and is torch's `varlen_attn`.",
        ("rows", "tokens of each", "context", "own", "torch", "gathered", "rate"),
        tuple(rows),
    )


def _profile(lines: Sequence[Line]) -> FigureTable:
    return FigureTable(
        "Where steps spend their time",
        "us of a step by kernel.",
        ("step", "kernel", "us"),
        tuple(
            _row(f"{x['way']}, {x['rows']} rows", kernel.replace("|", "/"), us)
            for x in lines
            for kernel, us in x["kernels"].items()
        ),
    )


def _problems(lines: Sequence[Line]) -> FigureTable:
    rows = tuple(_row(x["text"].replace("|", "/")) for x in lines)
    return FigureTable("Left out", "What was not measured, and why.", ("reason",), rows)


def _of(by_kind: dict[str, list[Line]], kind: str) -> list[Line]:
    return by_kind.get(kind, [])


def _row(*cells: Cell) -> tuple[str, ...]:
    return tuple(map(_text, cells))


def _text(cell: Cell) -> str:
    if isinstance(cell, float):
        return f"{cell:.2f}" if abs(cell) < 100 else f"{cell:.0f}"
    return "" if cell is None else str(cell)
