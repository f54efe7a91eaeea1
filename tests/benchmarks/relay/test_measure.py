"""Figures of a case, and their page."""

import os
import time
from pathlib import Path

import pytest

from benchmarks.relay.measure import Figures, Window, process_cpu_s
from benchmarks.relay.relay_report import RelayRun, write

FIGURES = Figures("chat", 64, 50.0, 41.5, (41.0, 42.0), 0.06, 1280.0, 1280.0, 2.9, 6.1, 2.4, 3.0)


def test_idle_time_is_not_a_tokens() -> None:
    window = Window(seconds=2.0, cpu_s=0.12, tokens=1000, events=1000)
    assert window.cpu_us_per_token(0.0) == pytest.approx(120)
    assert window.cpu_us_per_token(0.01) == pytest.approx(100)


def test_the_clock_of_another_process_is_its_cpu_time() -> None:
    before = time.process_time()
    read = process_cpu_s(os.getpid())
    assert before <= read <= time.process_time()


def test_the_page_has_a_row_for_each_case_of_both_servers(tmp_path: Path) -> None:
    run = RelayRun("python -m benchmarks.relay", {"CPU": "one"}, (FIGURES, FIGURES))
    data, text = write(tmp_path, run, None)
    assert RelayRun.read(data) == run
    row = "| chat | 64 | 50 | **42** | 41 42 | 0.06 |"
    assert text.read_text().count(row) == 2
    assert "- CPU: one\n" in text.read_text()
    write(tmp_path, run, RelayRun.read(data))
    assert text.read_text().count(row) == 4
    assert RelayRun.read(data) == run
