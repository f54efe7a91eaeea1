"""All phases of `python -m benchmarks.gpu`, rehearsed on a CPU at tiny sizes."""

from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.gpu_page import render_page
from benchmarks.gpu.gpu_tables import tables_of
from benchmarks.gpu.phase_run import read_lines
from benchmarks.gpu.phases import PhaseEnd, phases_of

KINDS = {
    "versions", "memory", "product", "launch", "lora check", "lora", "attention decode",
    "attention prompt", "problem", "build", "decode", "sampled", "prefill", "mixed", "profile",
}  # fmt: skip


@pytest.mark.slow
def test_every_phase_finds_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    status = main(["--device", "cpu", "--state", str(tmp_path), "--out", str(out)])
    printed = capsys.readouterr().out
    assert status == 0, printed
    lines = list(read_lines(tmp_path / "lines.jsonl"))
    assert {line["kind"] for line in lines} == KINDS
    assert not out.exists()
    problems = [line["text"] for line in lines if line["kind"] == "problem"]
    assert [text.partition(":")[0] for text in problems] == ["varlen_attn"]
    for line in lines:
        if line["kind"] == "lora":
            assert all(isinstance(us, float) for us in line["us"].values()), line
    ends = [PhaseEnd(phase, 1.0, 0) for phase in phases_of("cpu")]
    page = render_page("python -m benchmarks.gpu", lines, ends, "27 passed")
    for table in tables_of(lines):
        assert table.as_text() in printed
        assert f"## {table.title}\n" in page
    assert "| own | grouped | gathered | vllm | base |" in page


def test_a_page_tells_what_was_left_out() -> None:
    first, second, *_ = phases_of("cuda")
    lines = [
        {"kind": "device", "at_s": 0.1, "name": "a GPU", "total_gib": 140.0},
        {"kind": "memory", "at_s": 1.0, "operation": "copy", "tb_per_s": 4.2},
        {"kind": "problem", "at_s": 2.0, "text": "no time for more after 30 s"},
    ]
    ends = [PhaseEnd(first, 30.0, 0), PhaseEnd(second, 120.0, None), PhaseEnd(second, 0.0, None)]
    page = render_page("python -m benchmarks.gpu", lines, ends, "27 passed")
    assert "name a GPU, total_gib 140.0" in page
    assert "| memory, copy | 4.20 | TB/s |" in page
    assert "| no time for more after 30 s |" in page
    assert "ceilings done after 30 s; tests stopped after 120 s; tests no time left" in page
