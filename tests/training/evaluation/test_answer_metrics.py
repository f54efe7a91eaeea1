"""Scores and records, without a model."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import TrainingDataError
from training.evaluation.answer_metrics import equation_value, has_value, is_exact, wilson
from training.evaluation.records import Record, read_eval_records


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("X=((48.0+21.0)-11.0)", 58.0),
        ("x=(145.8/6.0)*7.0", 170.1),
        ("  -3 * 2 ", -6.0),
        ("32", 32.0),
        ("1/0", None),
        ("X=", None),
        ("X==3", None),
        ("3**9", None),
        ("__import__('os')", None),
        ("[1,2]", None),
        ("True", None),
        ("x+1", None),
        ("(" * 400, None),
        ("1e999", None),
        ("", None),
    ],
)
def test_values_of_equations(text: str, value: float | None) -> None:
    found = equation_value(text)
    assert found == (None if value is None else pytest.approx(value))


@given(st.text(max_size=60))
def test_any_text_has_a_value_or_none(text: str) -> None:
    value = equation_value(text)
    assert value is None or isinstance(value, float)


def test_an_answer_is_compared_by_text_or_by_value() -> None:
    assert is_exact(" a b\n", "a b")
    assert not is_exact("a  b", "a b")
    assert has_value("X=(8.0*4.0)", 32)
    assert not has_value("X=(8.0*4.0", 32)


@pytest.mark.parametrize(
    ("right", "n", "interval"),
    [(0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (50, 100, (0.4038, 0.5962))],
)
def test_wilsons_interval(right: int, n: int, interval: tuple[float, float]) -> None:
    assert wilson(right, n) == pytest.approx(interval, abs=1e-4)


def _lines(path: Path, *records: object) -> Path:
    path.write_text("\n\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return path


def test_records_are_read(tmp_path: Path) -> None:
    path = _lines(
        tmp_path / "d.jsonl",
        {"prompt": "p", "completion": "c"},
        {"prompt": "p", "completion": "X=1", "answer": 1.0},
        {"prompt": "p", "completion": "b", "answer": "b", "choices": ["a", "b"]},
    )
    assert read_eval_records(path) == [
        Record("p", "c"),
        Record("p", "X=1", 1.0),
        Record("p", "b", "b", ("a", "b")),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ([1], "must be an object, found list"),
        ({"prompt": "p"}, ":completion: missing"),
        ({"prompt": " ", "completion": "c"}, ":prompt: must be a string that is not blank"),
        ({"prompt": "p", "completion": 3}, ":completion: must be a string"),
        ({"prompt": "p", "completion": "c", "answr": 1}, ":answr: unknown field"),
        ({"prompt": "p", "completion": "c", "answer": True}, ":answer: must be a string or"),
        ({"prompt": "p", "completion": "c", "choices": ["a"]}, ":choices: each once"),
        ({"prompt": "p", "completion": "c", "choices": "c"}, ":choices: must be a list"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, message: str) -> None:
    path = _lines(tmp_path / "d.jsonl", {"prompt": "p", "completion": "c"}, line)
    with pytest.raises(TrainingDataError, match=rf"d\.jsonl:3.*{message}"):
        read_eval_records(path)


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="cannot be read"):
        read_eval_records(tmp_path / "none.jsonl")
    with pytest.raises(TrainingDataError, match="has no examples"):
        read_eval_records(_lines(tmp_path / "d.jsonl", ""))
