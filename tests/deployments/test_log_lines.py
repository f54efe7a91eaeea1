"""Lines are written at once, in order, and never make anybody wait."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.local.log_file import log_files, turn_over
from deployments.log_lines import KEPT_BYTES, PIPE_BYTES, LineSink, encode_line


class Pipe:
    """A pipe whose reader reads when told to."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def read_lines(self, count: int) -> list[bytes]:
        found = b""
        while found.count(b"\n") < count:
            found += os.read(self.reading, 1 << 16)
        return found.splitlines()

    def close(self) -> None:
        for descriptor in (self.reading, self.writing):
            try:
                os.close(descriptor)
            except OSError:
                continue


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def numbered(number: int, size: int = 200) -> bytes:
    return encode_line({"n": number, "filling": "x" * size})


def test_a_line_is_there_when_write_returns(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    LineSink(descriptors=(descriptor,)).write(numbered(1))
    assert (tmp_path / "out").read_bytes() == numbered(1)
    os.close(descriptor)


def test_lines_outlive_a_sigkill(tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "from deployments.log_setup import configure_logging\n"
        "import structlog\n"
        "configure_logging('front')\n"
        "structlog.get_logger().info('last', n=1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    out = tmp_path / "out"
    with out.open("wb") as file:
        done = subprocess.run([sys.executable, "-c", code], stdout=file, check=False)
    assert done.returncode == -9
    line = json.loads(out.read_text())
    assert (line["event"], line["part"], line["n"]) == ("last", "front", 1)


def test_a_reader_that_stops_makes_nobody_wait_and_loses_nothing(pipe: Pipe) -> None:
    sink = LineSink(descriptors=(pipe.writing,))
    count = 2000  # more than a pipe holds
    writer = threading.Thread(target=lambda: [sink.write(numbered(n)) for n in range(count)])
    writer.start()
    writer.join(30)
    assert not writer.is_alive()
    assert pipe.read_lines(count) == [numbered(n).strip() for n in range(count)]
    assert sink.flush(10)


def test_lines_longer_than_a_pipe_takes_at_once_stay_whole(pipe: Pipe) -> None:
    sink = LineSink(descriptors=(pipe.writing,))
    lines = [numbered(n, size) for n, size in enumerate((10, 40 * PIPE_BYTES, 20, PIPE_BYTES, 5))]
    for line in lines:
        sink.write(line)
    assert pipe.read_lines(len(lines)) == [line.strip() for line in lines]


def test_what_is_lost_is_counted_and_said(pipe: Pipe) -> None:
    sink = LineSink(descriptors=(pipe.writing,))
    line = numbered(0, 4000)
    count = 2 * KEPT_BYTES // len(line)
    for _ in range(count):
        sink.write(line)
    found: list[dict[str, object]] = []
    while not found or found[-1].get("event") != "log.lines_lost":
        found += map(json.loads, pipe.read_lines(1))
    lost = found.pop()["lines"]
    assert isinstance(lost, int)
    assert lost > 0
    assert len(found) + lost == count


def test_a_reader_that_has_gone_raises_nothing(pipe: Pipe) -> None:
    sink = LineSink(descriptors=(pipe.writing,))
    os.close(pipe.reading)
    for number in range(3000):
        sink.write(numbered(number))
    assert sink.flush(10)


def test_writers_in_several_threads_mix_no_lines(pipe: Pipe) -> None:
    sink = LineSink(descriptors=(pipe.writing,))
    threads = [
        threading.Thread(target=lambda: [sink.write(numbered(n)) for n in range(300)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    found = sorted(json.loads(line)["n"] for line in pipe.read_lines(1200))
    assert found == sorted(list(range(300)) * 4)


class Moving:
    """A sink over a file, and a clock that is moved by hand."""

    def __init__(self, path: Path) -> None:
        self.now = 0.0
        self.other = os.open("/dev/null", os.O_WRONLY)
        self.sink = LineSink(path, (self.other,), lambda: self.now)


def test_a_log_that_is_turned_over_loses_nothing_and_stays_bounded(tmp_path: Path) -> None:
    path = tmp_path / "log"
    moving = Moving(path)
    for number in range(100):
        moving.sink.write(numbered(number))
        moving.now += 0.3
        turn_over(path, max_bytes=2000, kept=50)
    found = [json.loads(line)["n"] for file in log_files(path, 50) for line in file.open()]
    assert found == list(range(100))
    for number in range(100):
        moving.sink.write(numbered(number))
        moving.now += 2
        turn_over(path, max_bytes=2000, kept=3)
    assert len(log_files(path, 50)) <= 50
    assert path.stat().st_mode & 0o077 == 0


def test_old_files_are_deleted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for number in range(6):
        path.write_text(str(number))
        assert turn_over(path, max_bytes=1, kept=3)
    assert [file.read_text() for file in log_files(path, 9)] == ["3", "4", "5"]
    assert not turn_over(path, max_bytes=1)


def test_a_folder_that_is_gone_ends_no_writer(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    moving = Moving(folder / "log")
    (folder / "log").unlink()
    folder.rmdir()
    moving.now = 10
    moving.sink.write(numbered(1))
    folder.mkdir()
    moving.now = 20
    moving.sink.write(numbered(2))
    assert json.loads((folder / "log").read_text())["n"] == 2


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.floats(), st.none())))
def test_every_event_is_one_line_of_json(fields: dict[str, object]) -> None:
    line = encode_line(fields)
    assert line.count(b"\n") == 1
    assert isinstance(json.loads(line), dict)


@pytest.mark.parametrize("value", ["\ud800", 2**70, {1: 2}, object(), float("nan"), b"\xff"])
def test_what_json_does_not_know_is_written_all_the_same(value: object) -> None:
    assert "value" in json.loads(encode_line({"value": value}))
