"""Description of the machine."""

from pathlib import Path

import pytest
import torch

from benchmarks.engine.peaks import gemm_peak, read_bandwidth
from benchmarks.shared.machine import autogroup, cpu_info, usable_cores


def test_the_cpu_is_read_from_the_first_processor(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(
        "processor : 0\nmodel name : Some CPU\nflags : fpu avx2 avx512f amx_int8 sse\n\n"
        "processor : 1\nmodel name : Other\nflags : fpu\n"
    )
    assert cpu_info(file) == ("Some CPU", ("avx2", "avx512f", "amx_int8"))


def test_without_the_file_there_is_still_a_name(tmp_path: Path) -> None:
    name, flags = cpu_info(tmp_path / "none")
    assert name
    assert flags == ()


@pytest.mark.parametrize(("content", "word"), [("0\n", "off"), ("1\n", "on"), (None, "unknown")])
def test_scheduling_by_session_is_told(tmp_path: Path, content: str | None, word: str) -> None:
    file = tmp_path / "sched_autogroup_enabled"
    if content is not None:
        file.write_text(content)
    assert autogroup(file) == word


def test_peaks_are_positive_for_every_type_of_weights() -> None:
    assert usable_cores() >= 1
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        assert gemm_peak(dtype, 1e-4, [(32, 32, 32)]) > 0
    assert read_bandwidth(1e-4, nbytes=2**20) > 0
