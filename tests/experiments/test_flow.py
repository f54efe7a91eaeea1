"""The LoRA-Flow experiment's own logic: formats, composites, intervals, the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.answers import Decode, KeptAnswers
from experiments.flow.flow_report import render, write_report
from experiments.flow.flow_tasks import (
    COMPOSITES,
    FORMAT_SKILLS,
    Composite,
    composite_examples,
    composite_tests,
    format_examples,
    format_tests,
    skill_examples,
    skill_tests,
)
from experiments.flow.formats import FORMATS, capitals, opened, spell, words
from experiments.intervals import difference_interval
from training.evaluation.local_engine import Asked
from training.evaluation.records import Record

MAWPS = COMPOSITES["mawps in envelope"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "mawps").mkdir()
    for split, n in (("train", 60), ("test", 9)):
        lines = [
            {"prompt": f"{split}: {i} and 2 more ?", "completion": f"X=({i}+2)", "answer": i + 2.0}
            for i in range(n)
        ]
        lines.append({"prompt": f"{split} " * 60, "completion": "X=1", "answer": 1.0})
        path = tmp_path / "mawps" / f"{split}.jsonl"
        path.write_text("\n".join(json.dumps(line) for line in lines))
    return tmp_path


def test_numbers_are_spelled() -> None:
    spelled = {0: "zero", 13: "thirteen", 40: "forty", 66: "sixty-six", 118: "one hundred eighteen"}
    spelled |= {200: "two hundred", 2041: "two thousand forty-one", 9001: "nine thousand one"}
    assert {n: spell(n) for n in spelled} == spelled
    assert words('{"age": 66, "pets": 0}') == '{"age": sixty-six, "pets": zero}'
    for wrong in (-1, 10_000):
        with pytest.raises(ValueError, match=f"{wrong}"):
            spell(wrong)


@given(st.integers(0, 9999), st.integers(0, 9999))
def test_different_numbers_have_different_words(a: int, b: int) -> None:
    assert (spell(a) == spell(b)) == (a == b)


@pytest.mark.parametrize("name", ["envelope", "german"])
@given(text=st.text())
def test_a_format_gives_back_what_was_put_in(name: str, text: str) -> None:
    assert opened(name, FORMATS[name](text)) == text


@pytest.mark.parametrize(
    "text", ["", "x", "[1]", '"answer"', '{"answer": 1}', '{"answer": "1", "b": 2}', '{"a": "1"}']
)
def test_what_is_no_envelope_holds_nothing(text: str) -> None:
    assert opened("envelope", text) is None


@pytest.mark.parametrize(
    "text", ["", "x", "Die Antwort lautet ", "Die Antwort lautet x.", "lautet x. Bitte sehr."]
)
def test_what_is_no_german_sentence_holds_nothing(text: str) -> None:
    assert opened("german", text) is None


def test_every_composite_with_numbers_can_be_opened() -> None:
    for task in COMPOSITES.values():
        if task.skill == "mawps":
            record = Record("p", FORMATS[task.format]("X=(1+2)"), 3.0)
            assert task.right(record, record.completion)
            assert task.right(record, FORMATS[task.format]("X=3"))
            assert not task.right(record, "X=(1+2)")


def test_a_format_never_sees_the_skill_that_it_is_composed_with() -> None:
    for task in COMPOSITES.values():
        assert task.skill not in FORMAT_SKILLS[task.format]


def test_sets_do_not_overlap(data: Path) -> None:
    for task in COMPOSITES.values():
        few = [composite_examples(task, 30, seed, data) for seed in (0, 1)]
        assert few[0] == composite_examples(task, 30, 0, data)
        assert few[0] != few[1]
        tests = composite_tests(task, 10, data)
        assert len(tests) == 10
        for examples in few:
            assert len(examples) == 30
            assert not {e.prompt for e in examples} & {r.prompt for r in tests}
        own = {e.completion for e in skill_examples(task.skill, 400, 0, data)}
        assert not own & {r.completion for r in tests}


def test_examples_of_a_format_are_those_that_it_changes() -> None:
    examples = format_examples("words", 40, 0)
    assert len(examples) == 40
    assert not any(c.isdigit() for e in examples for c in e.completion)
    assert examples != format_examples("words", 40, 1)
    assert capitals("select 1") == "SELECT 1"
    assert set(FORMATS) == set(FORMAT_SKILLS)


def test_adapters_alone_are_asked_what_they_were_trained_for(data: Path) -> None:
    own = format_tests("words", 20)
    assert len(own) == 20
    assert not {e.prompt for e in format_examples("words", 400, 0)} & {r.prompt for r in own}
    assert {r.completion[0] for r in skill_tests("mawps", 5, data)} == {"X"}


def test_a_real_skill_needs_its_data(data: Path) -> None:
    assert max(len(e.prompt) for e in skill_examples("mawps", 100, 0, data)) < 200
    assert any(len(r.prompt) > 200 for r in composite_tests(MAWPS, 100, data))
    with pytest.raises(FileNotFoundError, match="mawps"):
        composite_tests(MAWPS, 10, None)


def test_an_answer_is_right_where_both_are() -> None:
    record = Record("p", '{"answer": "X=(2+3)"}', 5.0)
    assert MAWPS.right(record, '{"answer": "x=3+2"}\n')
    assert not MAWPS.right(record, "X=(2+3)")
    assert not MAWPS.right(record, '{"answer": "x=3-2"}')
    tickets = Composite("tickets", "capitals")
    assert tickets.right(Record("p", "QUEUE: A"), "QUEUE: A")
    assert not tickets.right(Record("p", "QUEUE: A"), "queue: a")


def test_a_difference_is_paired() -> None:
    ours = [[1, 1, 0, 1, 0, 1, 1, 1]] * 3
    assert difference_interval(ours, ours) == (0.0, 0.0, 0.0)
    theirs = [[0, 1, 0, 1, 0, 0, 1, 0]] * 3
    mean, low, high = difference_interval(ours, theirs)
    assert mean == pytest.approx(3 / 8)
    assert 0 <= low < mean < high <= 1
    assert difference_interval(ours, theirs) == (mean, low, high)


def _say_it(answer: str) -> Decode:
    def decode(asked: Sequence[Asked], max_tokens: int) -> list[str]:
        del max_tokens
        return [answer] * len(asked)

    return decode


def test_answers_under_a_gate_are_its_own(tmp_path: Path) -> None:
    asked = [Asked("a prompt")]
    plain = KeptAnswers(tmp_path / "answers", "base", {})
    plain.fill(asked, 4, _say_it("plain"), print)
    gated = KeptAnswers(tmp_path / "answers", "base", {}, part="gate")
    assert gated.missing(asked, 4) == asked
    gated.fill(asked, 4, _say_it("gated"), print)
    again = KeptAnswers(tmp_path / "answers", "base", {})
    assert again.get(asked[0], 4) == "plain"


def _parts(flow: str, searched: str) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {}
    for seed in (0, 1, 2):
        flags = {"skill": "0" * 20, "format": "0" * 20, "average": "0" * 20}
        flags |= {"searched": searched, "flow": flow}
        settings = {"task": "tickets in capitals", "seed": seed}
        parts[f"quality-tickets-capitals-{seed}"] = {
            "settings": settings, "n": 20, "flags": flags, "examples": [{"wanted": "A | B"}],
            "right": {way: flag.count("1") for way, flag in flags.items()},
        }  # fmt: skip
        parts[f"search-tickets-capitals-{seed}"] = {
            "settings": settings, "weights": {"capitals": 0.7, "tickets": 0.4},
            "loss": 0.5, "average_loss": 0.9,
        }  # fmt: skip
        parts[f"gate-tickets-capitals-{seed}"] = {
            "settings": {**settings, "n": 200, "epochs": 5, "learning_rate": 0.001},
            "dev_loss": 0.25, "best_step": 20, "steps": 40, "cpu_s": 60.0,
        }  # fmt: skip
    parts["alone-tickets-capitals"] = {
        "settings": {"task": "tickets in capitals"},
        "skill": {"n": 20, "right": 19}, "format": {"n": 20, "right": 7},
    }  # fmt: skip
    return parts


def test_the_report_says_where_the_claim_holds(tmp_path: Path) -> None:
    better = render(_parts("1" * 18 + "00", "0" * 20))
    assert "90.0 ± 0.0" in better
    assert "**tickets in capitals**: the gate is better than each of the four." in better
    assert "capitals 0.70, tickets 0.40" in better
    assert "| json, shell, sql | `A \\| B` | 95.0 (76 to 99) | 35.0 (18 to 57) |" in better
    equal = render(_parts("1" * 18 + "00", "1" * 18 + "00"))
    assert "does not reproduce against searched:" in equal
    assert "skill's adapter answers 95 %, the format's 35 %." in equal
    assert "better than each" not in equal
    write_report(tmp_path, _parts("1" * 20, "0" * 20))
    assert json.loads((tmp_path / "flow.json").read_text())
    assert (tmp_path / "flow.md").read_text().count("Not measured") == 1


@pytest.mark.parametrize(("ratio", "said"), [(1.05, "15 % holds"), (1.2, "does not hold here")])
def test_the_report_says_what_the_gate_costs(ratio: float, said: str) -> None:
    ratios = {"low": ratio - 0.1, "median": ratio, "high": ratio + 0.1}
    timing = {
        "batch": 16, "rounds": 5, "step_ms": {"static": 100.0, "gate": 105.0},
        "wall_ratio": ratios, "cpu_ratio": ratios, "load_average": 1.0,
    }  # fmt: skip
    page = render({"timing": timing})
    assert said in page
    assert f"{ratio:.3f}" in page


def test_a_report_without_results_says_so() -> None:
    assert render({}).count("Not measured") == 3
