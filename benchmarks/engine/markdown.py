"""A run as a page for people."""

from collections.abc import Sequence

from benchmarks.engine.results import EngineReport, GenerationRow, Rate, StepRow


def render(report: EngineReport, command: str, picture: str | None = None) -> str:
    """Render the page.

    Args:
        report: results of the run.
        command: the command that made them.
        picture: file name of the plot, in the page's folder.
    """
    machine, run = report.machine, report.run
    kind = run.dtype + (f", weights in {run.quantize}" if run.quantize else "")
    busy = max(machine.load_before - 1, machine.load_after - machine.threads)
    lines = [
        "# Engine benchmark",
        "",
        f"Written by `{command}`; do not edit. {run.model} ({run.parameters / 1e6:.0f} M weights "
        f"in linears and head, {kind}), adapters of rank {run.rank} on all seven linears, "
        f"{run.prompt_tokens} tokens in, {run.output_tokens} out, greedy.",
        "",
        f"{machine.cpu}, {machine.cores} cores, {machine.threads} threads, "
        f"{', '.join(machine.isa) or 'no listed instruction sets'}; torch {machine.torch}; Python "
        f"{machine.python}. Load average {machine.load_before:.2f} before and "
        f"{machine.load_after:.2f} after, {run.seconds:.0f} s in all.",
        "",
        *(
            [
                "**Other processes used the same cores during this run**: absolute figures are too "
                "low and fractions of the bound too small; ratios are of neighbouring samples.",
                "",
            ]
            if busy > 1
            else []
        ),
        f"The machine at its best in this run: {machine.gemm_gflops:.0f} GFLOP/s in {run.dtype} "
        "products"
        + (f", {machine.linear_gflops:.0f} in {run.quantize}" if run.quantize else "")
        + f"; {machine.bandwidth_gbs:.1f} GB/s read from memory. A step's bound is the larger of "
        "its bytes at that bandwidth and its FLOPs at that peak (`benchmarks/engine/roofline.py`).",
        "",
        "All cases take turns in every round. A rate is the median of the rounds (lowest to "
        "highest); `of base` is the median of the rounds' own ratios at the same batch.",
        "",
        "## Correctness check",
        "",
        "| request | rms difference of log-probabilities from PEFT in fp32 | limit | without the "
        "adapters it would be |",
        "|---|---:|---:|---:|",
        *(
            f"| {check.name} | {check.rms:.2g} | {check.limit:.2g} | "
            + (f"{check.sensitivity:.2g} |" if check.sensitivity else "|")
            for check in report.correctness
        ),
    ]
    if report.generation:
        lines += ["", "## Whole generations", "", *_generation_lines(report.generation)]
    if report.decode:
        lines += ["", "## Decode steps", "", *_step_lines(report.decode, decoding=True)]
    if report.prefill:
        lines += [
            "",
            "## Prefill steps",
            "",
            "More prompts than these do not fit one step; larger batches take several of them.",
            "",
            *_step_lines(report.prefill, decoding=False),
        ]
    if picture is not None:
        lines += ["", f"![tokens per second, and ratio to base]({picture})"]
    return "\n".join(lines) + "\n"


def _generation_lines(rows: Sequence[GenerationRow]) -> list[str]:
    lines = [
        "Output tokens per second from the first submission to the last token, through "
        "`Engine.submit`; transformers' and PEFT's `generate` with the same prompts in the same "
        f"round. Rounds: {len(rows[0].seconds)}.",
        "",
        "| batch | adapters | tokens/s | of base | of the bound | compared with | its tokens/s | "
        "faster |",
        "|---:|---|---:|---:|---:|---|---:|---:|",
    ]
    for row in rows:
        ratio = "" if row.ratio_to_base is None else f"{row.ratio_to_base:.2f}"
        theirs = "" if row.reference_rate is None else _rate(row.reference_rate)
        faster = "" if row.speedup is None else f"{row.speedup:.2f}x"
        lines.append(
            f"| {row.batch} | {row.title} | {_rate(row.rate)} | {ratio} | "
            f"{row.fraction_of_bound:.2f} | {row.reference or ''} | {theirs} | {faster} |"
        )
    return lines


def _step_lines(rows: Sequence[StepRow], *, decoding: bool) -> list[str]:
    what = (
        f"One token for each request after {rows[0].context:.0f} tokens on average"
        if decoding
        else f"{rows[0].tokens} prompt tokens of each request"
    )
    lines = [
        f"{what}, through `ModelRunner.execute`; {len(rows[0].ms)} rounds of "
        f"{len(rows[0].ms[0])}. `fastest` is of single steps, which other processes disturb least.",
        "",
        "| batch | adapters | ms/step | fastest | tokens/s | of base | fastest | of the bound | "
        "bound: bytes, ms | FLOPs, ms |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.batch} | {row.title} | {row.step_ms:.1f} | {row.best_ms:.1f} | "
        f"{_rate(row.rate)} | {row.ratio_to_base:.2f} | {row.best_ratio_to_base:.2f} | "
        f"{row.fraction_of_bound:.2f} | {row.bound_bytes_ms:.1f} | "
        f"{row.bound_flops_ms:.1f} |"
        for row in rows
    ]
    return lines


def _rate(rate: Rate) -> str:
    digits = 0 if rate.median >= 100 else 1
    return f"{rate.median:.{digits}f} ({rate.low:.{digits}f}–{rate.high:.{digits}f})"
