"""The trace log loses nothing silently, cuts no line, and never grows beyond its bounds."""

import errno
import os
import resource
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from cluster.config import TraceLogConfig
from cluster.domain.adapter import AdapterKey, WeightedAdapter
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.trace_file import load_trace, read_header
from deployments.front.telemetry import trace_log
from deployments.front.telemetry.trace_log import PrefixKeys, TraceEntry, TraceLog
from tests.support.manual_clock import ManualClock

KEYS = PrefixKeys(b"salt", 4)
SQL = WeightedAdapter(AdapterKey(TenantId("acme"), "sql", AdapterDigest("ab" * 32)), 0.5)


class Opened:
    """One trace log, and what it counted."""

    def __init__(self, path: Path, clock: ManualClock | None = None, **fields: int) -> None:
        self.counts: Counter[str] = Counter()
        self.clock = clock or ManualClock(1000.0)
        self.log = TraceLog(TraceLogConfig(path=path, **fields), KEYS, self.clock, self._count)

    def _count(self, result: str, lines: int) -> None:
        self.counts[result] += lines

    def offer(self, number: int, **fields: object) -> None:
        entry = {
            "started": self.clock.monotonic(),
            "tenant": TenantId("acme"),
            "mixture": (SQL,),
            "prompt_token_ids": tuple(range(10)),
            "generated": number,
            "max_tokens": 1_000_000,
            "deadline_s": 600.0,
            "replica": "r1",
            "tier_found": "host",
            "ttft": 0.25,
            "e2e": 0.5,
            "outcome": "ok",
            **fields,
        }
        self.log.offer(TraceEntry(**entry))

    def wait(self, total: int) -> None:
        """Wait until so many lines have been written or lost."""
        event = threading.Event()
        for _ in range(2000):
            if self.counts.total() >= total:
                return
            event.wait(0.005)
        raise AssertionError(f"{self.counts} of {total}")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_log, "FLUSH_S", 0.01)


@contextmanager
def no_file_above(limit: int) -> Iterator[None]:
    """Let every write beyond ``limit`` bytes fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def numbers(found: list[TraceRequest]) -> list[int]:
    return [request.generated_tokens for request in found]


def test_a_line_has_what_a_simulation_needs(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "trace.jsonl"
    opened = Opened(path)
    opened.clock.advance(2.5)
    opened.offer(7, queued=0.125, pick={"score": 1.0})
    opened.log.close()
    (found,) = load_trace(path)
    assert (found.at, found.tenant, found.adapters) == (2.5, "acme", ("sql@abababababab",))
    assert (found.prompt_tokens, found.generated_tokens, found.max_tokens) == (10, 7, 1_000_000)
    assert found.deadline_s == 600
    assert len(found.prefix) == 2
    served = found.served
    assert served is not None
    assert (served.replica, served.tier_found, served.outcome) == ("r1", "host", "ok")
    assert (served.ttft, served.e2e, served.queued, served.pick) == (0.25, 0.5, 0.125, {"score": 1})
    header = read_header(path)
    assert (header.start, header.block_tokens) == (1000.0, 4)
    assert path.stat().st_mode & 0o077 == 0


def test_files_turn_over_and_only_so_many_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    opened = Opened(path, max_bytes=4096, files=3)
    for number in range(200):
        opened.offer(number)
        if number % 20 == 19:
            opened.wait(number + 1)
    opened.log.close()
    files = [path, tmp_path / "trace.jsonl.1", tmp_path / "trace.jsonl.2"]
    visible = [found for found in tmp_path.iterdir() if not found.name.startswith(".")]
    assert sorted(visible) == sorted(files)
    assert all(file.stat().st_size <= 4096 + 512 for file in files)
    kept = numbers(load_trace(files[::-1]))
    assert kept == list(range(200 - len(kept), 200))
    assert len(kept) > 20
    assert opened.counts == {"written": 200}


def test_a_new_front_begins_a_new_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    for number in range(2):
        opened = Opened(path, ManualClock(1000.0 + 50 * number))
        opened.offer(number)
        opened.log.close()
    assert numbers(load_trace(path)) == [1]
    assert [request.at for request in load_trace([path, tmp_path / "trace.jsonl.1"])] == [0, 50]


def test_fronts_of_one_machine_have_a_file_each(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    first, second = Opened(path), Opened(path)
    first.offer(1)
    first.wait(1)
    second.offer(2)
    second.wait(1)
    first.log.close()
    second.log.close()
    assert numbers(load_trace(path)) == [1]
    assert numbers(load_trace(tmp_path / "trace-1.jsonl")) == [2]


def test_a_full_disk_loses_lines_that_are_counted_and_cuts_none(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with structlog.testing.capture_logs() as lines:
        opened = Opened(path)
        with no_file_above(2000):
            for number in range(50):
                opened.offer(number)
                opened.wait(number + 1)
        lost = opened.counts["lost"]
        assert 0 < lost < 50
        opened.offer(99)
        opened.log.close()
    found = numbers(load_trace(path))
    assert found == [*range(50 - lost), 99]
    assert opened.counts == {"written": 51 - lost, "lost": lost}
    assert [line["event"] for line in lines] == ["trace_log.failed", "trace_log.writes_again"]


def test_a_disk_that_is_full_from_the_beginning_leaves_no_file_without_a_header(
    tmp_path: Path,
) -> None:
    path = tmp_path / "trace.jsonl"
    opened = Opened(path)
    with no_file_above(20):
        for number in range(3):
            opened.offer(number)
            opened.wait(number + 1)
    assert opened.counts == {"lost": 3}
    opened.offer(4)
    opened.log.close()
    assert numbers(load_trace(path)) == [4]


def test_a_folder_that_cannot_be_made_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    with structlog.testing.capture_logs() as lines:
        opened = Opened(blocked / "trace.jsonl")
        for number in range(3):
            opened.offer(number)
            opened.wait(number + 1)
        assert opened.counts == {"lost": 3}
        blocked.unlink()
        opened.offer(4)
        opened.log.close()
    assert numbers(load_trace(blocked / "trace.jsonl")) == [4]
    assert [line["event"] for line in lines] == ["trace_log.failed", "trace_log.writes_again"]


def test_a_crowd_beyond_what_may_wait_is_lost_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_log, "FLUSH_S", 1000.0)
    monkeypatch.setattr(trace_log, "MOST_KEPT", 10)
    opened = Opened(tmp_path / "trace.jsonl")
    for number in range(15):
        opened.offer(number)
    opened.log.close()
    opened.offer(16)  # after the end
    assert opened.counts == {"written": 10, "lost": 6}
    assert numbers(load_trace(tmp_path / "trace.jsonl")) == list(range(10))


def test_a_request_that_cannot_be_written_does_not_end_the_log(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    opened = Opened(path)
    opened.offer(1, prompt_token_ids=("not a token",))
    opened.offer(2)
    opened.log.close()
    assert opened.counts == {"written": 1, "lost": 1}
    assert numbers(load_trace(path)) == [2]


def test_entries_offered_by_many_threads_are_all_written(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    opened = Opened(path, max_bytes=20_000, files=50)

    def offer(first: int) -> None:
        for number in range(first, first + 200):
            opened.offer(number)

    threads = [threading.Thread(target=offer, args=(200 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened.log.close()
    assert sorted(numbers(load_trace(sorted(tmp_path.glob("trace.jsonl*"))))) == list(range(800))


def test_chains_are_equal_as_far_as_prompts_are() -> None:
    def chain(*token_ids: int) -> tuple[int, ...]:
        return KEYS.chain(TenantId("acme"), token_ids)

    whole = chain(1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert len(whole) == 2  # the ninth token fills no block
    other = chain(1, 2, 3, 4, 5, 6, 7, 0)
    assert other[0] == whole[0]
    assert other[1] != whole[1]
    assert chain(5, 6, 7, 8)[0] != whole[1]  # a block's hash is of all before it, too
    assert chain(1, 2, 3) == ()
    assert chain() == ()


def test_chains_tell_nothing_without_the_salt_nor_across_tenants() -> None:
    prompt = tuple(range(8))
    chain = KEYS.chain(TenantId("acme"), prompt)
    assert PrefixKeys(b"other", 4).chain(TenantId("acme"), prompt) != chain
    assert KEYS.chain(TenantId("globex"), prompt) != chain
    together = PrefixKeys(b"salt", 4, apart=False)
    assert together.chain(TenantId("acme"), prompt) == together.chain(TenantId("globex"), prompt)


@pytest.mark.parametrize(
    "fields", [{"files": 1}, {"max_bytes": 10}, {"path": None}, {"sample": 0.5}]
)
def test_a_wrong_configuration_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        TraceLogConfig.model_validate({"path": "trace.jsonl", **fields})


def test_long_prompts_fill_the_memory_before_many_requests_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_log, "FLUSH_S", 1000.0)
    monkeypatch.setattr(trace_log, "MOST_TOKENS_KEPT", 250)
    opened = Opened(tmp_path / "trace.jsonl")
    opened.offer(1, prompt_token_ids=tuple(range(300)))  # alone it is kept, however long
    opened.offer(2)
    opened.log.close()
    assert opened.counts == {"written": 1, "lost": 1}

    again = Opened(tmp_path / "trace.jsonl")
    for number in range(5):
        again.offer(number, prompt_token_ids=tuple(range(100)))
    again.log.close()
    assert again.counts == {"written": 2, "lost": 3}


def test_a_file_system_without_locks_costs_lines_and_no_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    opened = Opened(tmp_path / "trace.jsonl")
    opened.offer(0)
    opened.wait(1)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1, 20):
        opened.offer(number)
        opened.wait(number + 1)
    assert len(os.listdir("/proc/self/fd")) == before
    opened.log.close()
    assert opened.counts == {"lost": 20}
