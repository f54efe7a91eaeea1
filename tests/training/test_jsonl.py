from pathlib import Path
from typing import Any

import pytest

from cluster.errors import TrainingDataError
from training.evaluation.records import read_eval_records
from training.jsonl import Example, digest_examples, read_examples, write_examples

GOOD = '{"prompt": "p", "completion": "c"}'


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        pytest.param("{", ":3: not JSON", id="broken"),
        pytest.param("[1]", ":3: must be an object, found list", id="list"),
        pytest.param('{"prompt": "p"}', ":3:completion: missing", id="no-completion"),
        pytest.param('{"completion": "c"}', ":3:prompt: missing", id="no-prompt"),
        pytest.param('{"prompt": 1, "completion": "c"}', ":3:prompt: must be a string", id="int"),
        pytest.param('{"prompt": " ", "completion": "c"}', ":3:prompt: is empty", id="blank"),
        pytest.param(
            '{"prompt": "p", "completion": "c", "label": "x"}', ":3:label: unknown", id="unknown"
        ),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_field(
    tmp_path: Path, line: str, complaint: str
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n")
    with pytest.raises(TrainingDataError) as caught:
        read_examples(path)
    assert str(caught.value).startswith(f"{path}{complaint}")


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "a \\ud83d", "completion": "c"}',
        '{"prompt": "p", "completion": "\\udc00"}',
        '{"prompt": "p", "completion": "c", "\\ud83d": 1}',
    ],
)
@pytest.mark.parametrize("read", [read_examples, read_eval_records])
def test_half_a_surrogate_pair_is_no_text(tmp_path: Path, line: str, read: Any) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(
        TrainingDataError, match=r"data\.jsonl:2: expected text, found \\ud"
    ) as caught:
        read(path)
    caught.value.message.encode()
    path.write_text('{"prompt": "\\ud83d\\ude00", "completion": "c"}\n')
    assert read(path)[0].prompt == "\U0001f600"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe"])
def test_a_file_without_examples_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(TrainingDataError, match=r"data\.jsonl"):
        read_examples(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="cannot be read"):
        read_examples(tmp_path / "none.jsonl")


def test_examples_survive_a_round_trip(tmp_path: Path) -> None:
    examples = [Example("line\none", '"é"'), Example("\u2028 separator", "x\u0085y")]
    path = tmp_path / "data.jsonl"
    write_examples(path, examples)
    assert read_examples(path) == examples


def test_the_digest_depends_on_content_and_order() -> None:
    one, two = Example("a", "b"), Example("b", "a")
    digests = {digest_examples(e) for e in ([one, two], [two, one], [one], [])}
    assert len(digests) == 4
