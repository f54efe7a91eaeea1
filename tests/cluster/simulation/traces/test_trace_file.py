"""A trace is read back as it was written, and a wrong line is named."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.domain.ids import TenantId
from cluster.errors import ConfigError
from cluster.simulation.trace import TRACE_FORMAT, ServedFacts, TraceRequest
from cluster.simulation.traces.trace_file import (
    TraceHeader,
    encode_header,
    encode_request,
    load_trace,
    read_header,
    read_requests,
)
from tests.support.written_trace import write_trace

HEADER = encode_header(TraceHeader()).decode()
LINE = (
    '{"t":1.5,"tenant":"acme","set":["a"],"prompt_tokens":8,"generated_tokens":2,"max_tokens":4}\n'
)
seconds = st.floats(0, 1e6).map(lambda value: round(value, 6))
names = st.text("abc@-", min_size=1, max_size=6)
served = st.builds(
    ServedFacts,
    replica=names,
    tier_found=st.sampled_from(["device", "loading", "host", "disk", "base"]),
    ttft=st.none() | seconds,
    e2e=seconds,
    outcome=st.sampled_from(["ok", "cancelled", "overloaded"]),
    queued=st.none() | seconds,
    pick=st.none() | st.dictionaries(names, st.integers() | names, max_size=2),
)
requests = st.builds(
    lambda generated, more, **fields: TraceRequest(
        **fields, generated_tokens=generated, max_tokens=max(1, generated + more)
    ),
    generated=st.integers(0, 100),
    more=st.integers(0, 100),
    at=seconds,
    tenant=names.map(TenantId),
    adapters=st.sets(names, max_size=4).map(lambda found: tuple(sorted(found))),
    prompt_tokens=st.integers(1, 10_000),
    prefix=st.lists(st.integers(0, 2**48 - 1), max_size=5).map(tuple),
    deadline_s=st.none() | st.floats(0.001, 1e6),
    served=st.none() | served,
)


def wrong(tmp_path: Path, text: str) -> str:
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_trace(path)
    return caught.value.message.removeprefix(str(path))


@given(st.lists(requests, max_size=8))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, written: list[TraceRequest]
) -> None:
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    header = TraceHeader(start=12.5, block_tokens=32, about="made up")
    write_trace(path, written, header)
    assert list(read_requests(path)) == written
    assert load_trace(path) == sorted(written, key=lambda request: request.at)
    found = read_header(path)
    assert (found.format, found.start, found.block_tokens) == (TRACE_FORMAT, 12.5, 32)


@pytest.mark.parametrize("cut", range(1, len(LINE)))
def test_a_last_line_that_is_cut_off_anywhere_is_left_out(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(HEADER + LINE + LINE[:cut])
    whole = 2 if cut == len(LINE) - 1 else 1  # the object is whole, its line feed is missing
    assert len(load_trace(path)) == whole


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (LINE.replace('"tenant"', '"tenants"'), '"tenants": not a key of a request; did you mean'),
        (LINE.replace('"t":1.5', '"t":-1'), ">= 0.0"),
        (LINE.replace('"t":1.5', '"t":"now"'), "$.t"),
        (LINE.replace('["a"]', '["a","a"]'), "set: expected each adapter once"),
        (LINE.replace('"max_tokens":4', '"max_tokens":1'), "generated_tokens: expected at most"),
        (LINE.replace(',"max_tokens":4', ""), "missing required field `max_tokens`"),
        (LINE.replace("}", ',"e2e":1}'), "outcome: expected"),
        (LINE.replace("}", ',"outcome":"ok"}'), "e2e: expected"),
        (LINE.replace(":8,", ":400000000000,"), "<= 4194304 - at `$.prompt_tokens`"),
        (LINE.replace(":4}", ":400000000000}"), "<= 4194304 - at `$.max_tokens`"),
        (LINE.replace('"t":1.5', '"t":1e300'), "at `$.t`"),
        ("\n", "truncated"),
        (LINE[:-9] + "\n", "correct the line"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(tmp_path: Path, line: str, problem: str) -> None:
    message = wrong(tmp_path, HEADER + LINE + line + LINE)
    assert message.startswith(":3: ")
    assert problem in message


def test_a_wrong_last_line_without_a_line_feed_is_still_wrong(tmp_path: Path) -> None:
    line = LINE.replace('"tenant"', '"tenants"').rstrip("\n")
    assert wrong(tmp_path, HEADER + line).startswith(':2: "tenants"')


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected a header"),
        (LINE, '"t": not a key of the header'),
        (HEADER.replace("v1", "v2"), 'format: expected "braid.request.v1", found'),
        ("{}\n", "format: expected"),
        ("TIMESTAMP,ContextTokens\n", "malformed"),
        (HEADER.replace("}", ',"block_token":8}'), 'did you mean "block_tokens"?'),
        (HEADER.replace("}", ',"start":1796079600000}'), "start: expected seconds since 1970"),
        (HEADER.replace("}", ',"start":1e300}'), "start: expected seconds since 1970"),
        (HEADER.replace("}", ',"start":-1e12}'), "found -1e+12"),
    ],
)
def test_a_file_without_the_header_of_a_trace_is_refused(
    tmp_path: Path, text: str, problem: str
) -> None:
    message = wrong(tmp_path, text)
    assert message.startswith(":1: ")
    assert problem in message


def test_a_file_that_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_trace(tmp_path / "nothing.jsonl")


def test_logs_of_two_fronts_are_merged_by_their_starts(tmp_path: Path) -> None:
    def one(at: float, tenant: str) -> TraceRequest:
        return TraceRequest(at, TenantId(tenant), (), 8, 1, 1)

    early, late = tmp_path / "early.jsonl", tmp_path / "late.jsonl"
    write_trace(late, [one(1, "b")], TraceHeader(start=1010))
    write_trace(early, [one(20, "c"), one(2, "a")], TraceHeader(start=1000))
    found = load_trace([late, early])
    assert [(request.at, request.tenant) for request in found] == [(2, "a"), (11, "b"), (20, "c")]


@pytest.mark.parametrize(
    ("header", "problem"),
    [(TraceHeader(), "start: expected"), (TraceHeader(start=5, block_tokens=32), "block_tokens")],
)
def test_traces_that_cannot_be_merged_are_refused(
    tmp_path: Path, header: TraceHeader, problem: str
) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    write_trace(first, [], TraceHeader(start=1))
    write_trace(second, [], header)
    with pytest.raises(ConfigError, match=problem):
        load_trace([first, second])


def test_a_log_is_not_read_twice(tmp_path: Path) -> None:
    path, link = tmp_path / "trace.jsonl", tmp_path / "link.jsonl"
    path.write_text(HEADER.replace("}", ',"start":5}') + LINE)
    link.symlink_to(path)
    assert len(load_trace([path])) == 1
    for other in (path, link):
        with pytest.raises(ConfigError, match=rf"{path}: named twice"):
            load_trace([path, other])


def test_a_packed_trace_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl.1"
    path.write_bytes(gzip.compress((HEADER + LINE + LINE[:20]).encode()))
    assert [request.at for request in load_trace(path)] == [1.5]
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ConfigError, match=r"trace\.jsonl\.1: cannot be read: "):
        load_trace(path)


def test_a_line_has_only_what_applies() -> None:
    line = encode_request(TraceRequest(0.1234567, TenantId("t"), (), 4, 1, 1))
    assert line == (
        b'{"t":0.123457,"tenant":"t","set":[],"prompt_tokens":4,"generated_tokens":1,'
        b'"max_tokens":1}\n'
    )
