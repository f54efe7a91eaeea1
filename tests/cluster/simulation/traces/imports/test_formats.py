"""Published formats are read as published, and a wrong line is named."""

from pathlib import Path

import pytest

from cluster.errors import ConfigError
from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.asking import AdapterNames, OneByPopularity
from cluster.simulation.traces.imports.formats import import_trace
from cluster.simulation.traces.imports.imported import ImportedTrace, ImportMapping
from cluster.simulation.traces.popularity import zipf

AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:03.9799700,110,27
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:01.017335+00:00,2399,6
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
"""
BURSTGPT_SESSIONS = """\
Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
19440110.0,1722-ca,43,GPT-4,906,446,1352,Conversation log
19440161.0,d598-3b,2,ChatGPT,36,29,65,Conversation log
"""
MOONCAKE = """\
{"timestamp": 0, "input_length": 1300, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 3052, "input_length": 1024, "output_length": 3, "hash_ids": [0, 4]}
"""


def imported(tmp_path: Path, text: str, form: str, **mapping: object) -> ImportedTrace:
    path = tmp_path / "published"
    path.write_text(text)
    return import_trace(path, form, ImportMapping(**mapping))


def shape(found: list[TraceRequest]) -> list[tuple[float, int, int]]:
    return [(round(one.at, 6), one.prompt_tokens, one.generated_tokens) for one in found]


def test_azure_2023_is_sorted_and_begins_at_0(tmp_path: Path) -> None:
    found = imported(tmp_path, AZURE_2023, "azure").requests
    assert shape(found) == [(0, 4808, 10), (0.00001, 110, 27), (0.052, 3180, 8)]


def test_azure_2024_has_a_zone(tmp_path: Path) -> None:
    found = imported(tmp_path, AZURE_2024, "azure").requests
    assert shape(found) == [(0, 2162, 5), (1.007405, 2399, 6)]


def test_burstgpt_without_sessions_leaves_failures_out(tmp_path: Path) -> None:
    found = imported(tmp_path, BURSTGPT, "burstgpt", tenant="label")
    assert shape(found.requests) == [(0, 472, 18), (113, 417, 276)]
    assert [one.tenant for one in found.requests] == ["ChatGPT", "GPT-4"]
    assert found.failed == 1
    assert "1 that failed there left out" in found.about
    assert "tenants by the file's label" in found.about


def test_burstgpt_sessions_may_be_the_tenants(tmp_path: Path) -> None:
    found = imported(tmp_path, BURSTGPT_SESSIONS, "burstgpt", tenant="session").requests
    assert shape(found) == [(0, 906, 446), (51, 36, 29)]
    assert [one.tenant for one in found] == ["1722-ca", "d598-3b"]


def test_mooncake_blocks_become_chains_of_whole_blocks(tmp_path: Path) -> None:
    first, second = imported(tmp_path, MOONCAKE, "mooncake", block_tokens=256).requests
    assert (first.at, second.at) == (0, 3.052)
    assert first.prefix == (0, 1, 2, 3, 4)  # 1,300 tokens are five whole blocks of 256
    assert second.prefix == (0, 1, 8, 9)


def test_mooncake_may_be_scaled_to_a_small_model(tmp_path: Path) -> None:
    found = imported(tmp_path, MOONCAKE, "mooncake", tokens=1 / 32).requests
    assert shape(found) == [(0, 41, 16), (3.052, 32, 1)]
    assert [one.prefix for one in found] == [(0, 1), (0, 4)]


def test_blocks_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a multiple of 16"):
        imported(tmp_path, MOONCAKE, "mooncake", tokens=0.01)


def test_a_window_is_cut_out_and_played_faster(tmp_path: Path) -> None:
    found = imported(tmp_path, BURSTGPT, "burstgpt", begin_s=100, duration_s=60, speed=2)
    assert shape(found.requests) == [(6.5, 417, 276)]
    assert "from 100 s, 60 s; 2 times as fast" in found.about


def test_requests_that_are_too_long_are_left_out_and_counted(tmp_path: Path) -> None:
    found = imported(tmp_path, AZURE_2024, "azure", most_tokens=2200)
    assert shape(found.requests) == [(0, 2162, 5)]
    assert found.too_long == 1


def test_a_mapping_adds_adapters_by_its_seed(tmp_path: Path) -> None:
    asking = OneByPopularity(zipf(50, 1.0), AdapterNames(4))
    rows = AZURE_2024 + AZURE_2024.split("\n", 1)[1] * 20

    def adapters(seed: int) -> list[tuple[str, ...]]:
        found = imported(tmp_path, rows, "azure", asking=asking, seed=seed)
        return [one.adapters for one in found.requests]

    assert adapters(1) == adapters(1)
    assert adapters(1) != adapters(2)


@pytest.mark.parametrize(
    ("form", "text", "problem"),
    [
        ("azure", "", ':1: expected the column "TIMESTAMP", found nothing'),
        ("azure", BURSTGPT, ':1: expected the column "TIMESTAMP", found'),
        ("azure", AZURE_2023 + "yesterday,1,2\n", ":5: TIMESTAMP: expected a date and time"),
        ("azure", AZURE_2023 + "2023-11-16 18:17:04,x,2\n", ":5: ContextTokens: expected a whole"),
        ("azure", AZURE_2023 + "2023-11-16 18:17:04,1\n", ":5: expected 3 cells"),
        ("azure", AZURE_2023 + "2023-11-16 18:17:04,1,-2\n", ":5: GeneratedTokens"),
        ("burstgpt", BURSTGPT.replace("Request", "Reqest"), 'column "Request tokens", found "Reqe'),
        ("burstgpt", BURSTGPT.replace("\n5,", "\nnan,"), ":2: Timestamp: expected seconds"),
        ("mooncake", MOONCAKE + "{}\n", ":3: Object missing required field"),
        ("mooncake", MOONCAKE + '{"timestamp": 1', ":3: Input data was truncated"),
        ("mooncake", MOONCAKE.replace("1024", "1"), ":2: hash_ids: expected at most one"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "no request is left of 0"),
        ("vllm", "", "not a known format; expected one of azure, burstgpt, mooncake"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(
    tmp_path: Path, form: str, text: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        imported(tmp_path, text, form)
    assert problem in caught.value.message


def test_files_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "packed.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00\xff\xfe\xfa")
    with pytest.raises(ConfigError, match="not UTF-8 text; unpack it first"):
        import_trace(path, "azure", ImportMapping())
    with pytest.raises(ConfigError, match="cannot be read"):
        import_trace(tmp_path / "nothing", "azure", ImportMapping())


@pytest.mark.parametrize("field", [{"speed": 0}, {"tokens": -1}, {"duration_s": 0}])
def test_a_mapping_that_means_nothing_is_refused(field: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(field))}: expected above 0"):
        ImportMapping(**field)
