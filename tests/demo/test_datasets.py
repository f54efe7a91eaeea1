import json
from datetime import date
from pathlib import Path
from random import Random

import pytest

from cluster.errors import ConfigError
from demo.generator.datasets import generate, write_datasets
from demo.generator.skills import GENERAL, SKILLS
from demo.generator.skills.templates import Skill
from training.jsonl import Example, read_examples

ALL = {**SKILLS, GENERAL.name: GENERAL}


@pytest.mark.parametrize("skill", ALL.values(), ids=ALL)
def test_heldout_templates_are_never_trained_on(skill: Skill) -> None:
    train = {t.lower().rstrip(".") for i in skill.intents for t in i.train}
    heldout = {t.lower().rstrip(".") for i in skill.intents for t in i.heldout}
    assert all(intent.train and intent.heldout for intent in skill.intents)
    assert not train & heldout


@pytest.mark.parametrize("name", ALL)
def test_heldout_prompts_are_not_in_the_training_data(name: str) -> None:
    train = {_bare(e) for e in generate(name, "train", 2000, 0)}
    assert not train & {_bare(e) for e in generate(name, "heldout", 60, 0)}


@pytest.mark.parametrize("name", ALL)
def test_thousands_of_different_prompts_repeat_with_the_seed(name: str) -> None:
    examples = generate(name, "train", 3000, 7)
    assert len({e.prompt for e in examples}) == 3000
    assert generate(name, "train", 50, 7) == examples[:50]
    assert generate(name, "train", 50, 8) != examples[:50]
    assert generate(name, "heldout", 50, 7) != examples[:50]


@pytest.mark.parametrize("name", ALL)
def test_every_template_is_filled_without_leftovers(name: str) -> None:
    for intent in ALL[name].intents:
        slots = intent.fill(Random(1))
        for template in (*intent.train, *intent.heldout):
            text = template.format_map(slots)
            assert text == " ".join(text.split())
            assert not set("{}") & set(text)


@pytest.mark.parametrize("name", ALL)
def test_prompts_and_answers_are_short(name: str) -> None:
    for example in generate(name, "train", 1000, 3):
        assert 5 < len(example.prompt) < 130
        assert len(example.completion) < 90
        assert bool(example.completion) == (name != "general")


def test_equations_hold() -> None:
    for example in _examples("equations"):
        left, right = example.completion.split(" = ")
        a, operator, b = left.split()
        results = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}
        assert int(right) == results[operator]
        assert a in example.prompt
        assert b in example.prompt


def test_records_are_json_of_what_the_prompt_says() -> None:
    for example in _examples("json"):
        record = json.loads(example.completion)
        assert all(str(value) in example.prompt for value in record.values())


def test_dates_are_iso_dates_of_the_year_in_the_prompt() -> None:
    for example in _examples("dates"):
        parsed = date.fromisoformat(example.completion)
        assert str(parsed.year) in example.prompt
        assert parsed.strftime("%B") in example.prompt


def test_cron_expressions_have_five_fields_in_range() -> None:
    limits = (59, 23, 31, 12, 7)
    for example in _examples("cron"):
        fields = example.completion.split(" ")
        assert len(fields) == 5
        for text, limit in zip(fields, limits, strict=True):
            numbers = text.removeprefix("*/").split("-") if text != "*" else []
            assert all(0 <= int(number) <= limit for number in numbers)


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("at 12 am", "0 0"), ("at 12 pm", "0 12"), ("at 9 pm", "0 21"), ("at 8 am", "0 8")],
)
def test_clock_times_are_right(prompt: str, completion: str) -> None:
    found = [e for e in generate("cron", "train", 3000, 0) if prompt in e.prompt]
    assert found
    assert all(e.completion.startswith(f"{completion} ") for e in found)


def test_unknown_skills_and_impossible_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="no demo skill 'sqll'; there are: cron, "):
        generate("sqll", "train", 1, 0)
    with pytest.raises(ConfigError, match="too few different heldout prompts"):
        generate("shell", "heldout", 100_000, 0)


def test_datasets_are_written_for_every_skill(tmp_path: Path) -> None:
    written = write_datasets(tmp_path / "new", 0, n_train=20, n_heldout=10)
    assert set(written) == set(SKILLS)
    for skill, (train, heldout) in written.items():
        assert (train.name, heldout.name) == (f"{skill}.train.jsonl", f"{skill}.heldout.jsonl")
        assert read_examples(train) == generate(skill, "train", 20, 0)
        assert read_examples(heldout) == generate(skill, "heldout", 10, 0)


def _examples(name: str) -> list[Example]:
    return generate(name, "train", 500, 1) + generate(name, "heldout", 200, 1)


def _bare(example: Example) -> str:
    return example.prompt.lower().rstrip(".")
