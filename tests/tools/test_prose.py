"""The check of prose: openings of docstrings, banned phrases, and counts that only fall."""

import json
from pathlib import Path

import pytest

from tools.prose.__main__ import BASELINE, main
from tools.prose.ratchet import count, may_replace, risen
from tools.prose.rules import Fault, check_prose
from tools.prose.texts import Kind, read_python, read_tree
from tools.prose.verbs import is_verb


def faults(source: str, path: str = "cluster/part.py") -> list[Fault]:
    return [fault for prose in read_python(path, source) for fault in check_prose(prose)]


def rules(source: str, path: str = "cluster/part.py") -> list[str]:
    return [fault.rule for fault in faults(source, path)]


@pytest.mark.parametrize(
    "opening",
    [
        "What became of it.",
        "Whether it is so.",
        "Whose turn it is.",
        "Where it lies.",
        "Which adapters answer.",
        "How many there are.",
        "From the input to the output.",
        "See ``Other.method``.",
        "See the module.",
    ],
)
@pytest.mark.parametrize(
    "place",
    [
        '"""{}"""\n',
        'class Part:\n    """{}"""\n',
        'class Part:\n    size: int\n    """{}"""\n',
        'def part():\n    """{}"""\n',
        'class Part:\n    @property\n    def size(self):\n        """{}"""\n',
    ],
)
def test_no_docstring_opens_with_a_riddle(opening: str, place: str) -> None:
    assert rules(place.format(opening)) == ["riddle"]


@pytest.mark.parametrize(
    "opening",
    [
        "Return the size.",
        "Returns the size.",
        "Initialize it.",
        "Apply one adjustment to each row.",
        "Record that a load has failed.",
        "Return (side, module).",
        "Tries again.",
        "See and change the adapters.",
        "Atomically replace the file.",
        "Count the requests.",
        "Counts requests by tenant.",
        "Undo ``pin``.",
        "Stop.",
        "Stream with usage.",
        "Pick between two.",
    ],
)
def test_a_function_may_open_with_any_form_of_a_verb(opening: str) -> None:
    assert rules(f'def part():\n    """{opening}"""\n') == []


@pytest.mark.parametrize(
    "opening",
    [
        "The size.",
        "A pointer.",
        "``size`` in bytes.",
        "Count of requests.",
        "Copies that are kept.",
        "Weights [T, k], fp32.",
        "Streams with usage.",
        "Seconds until then.",
        "[rows, vocabulary] in fp32.",
        "Move, or none.",
    ],
)
def test_a_function_that_opens_with_a_noun_is_counted(opening: str) -> None:
    assert not is_verb(opening)
    assert rules(f'def part():\n    """{opening}"""\n') == ["opening"]


@pytest.mark.parametrize(
    "source",
    [
        '"""The size of things."""\n',
        'class Part:\n    """A part."""\n    size: int\n    """Bytes."""\n',
        'class Part:\n    @property\n    def size(self):\n        """Bytes."""\n',
        '@pytest.fixture\ndef part():\n    """A part."""\n',
        'class Part:\n    def __len__(self):\n        """The number of bytes."""\n',
        'def test_it():\n    """Two parts are one."""\n',
    ],
)
def test_what_is_a_value_may_open_with_a_noun(source: str) -> None:
    assert rules(source, "tests/test_part.py") == []


def test_an_empty_docstring_and_an_empty_file_are_no_crash() -> None:
    assert rules("") == []
    assert rules('def part():\n    """"""\n') == ["opening"]


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ("it is no folder", "is not"),
        ("these are no numbers", "is not"),
        ("it is\nno folder", "is not"),
        ("this is none", "is not"),
        ("the file, or None where it is missing", "if"),
        ("as somebody said", "another request"),
        ("so that nobody waits", "no one"),
        ("whoever asks", "the caller"),
        ("computed anew", "again"),
        ("was used lately", "recently"),
        ("adapters are let go", "release"),
        ("it lets them go", "release"),
        ("it ended without a word", "unexpectedly"),
        ("the answer broke off", "closed"),
        ("measured beside others", "compared"),
        ("the front is told", "notified"),
        ("it goes on with the rest", "continue"),
        ("while Redis is away", "unreachable"),
    ],
)
@pytest.mark.parametrize("place", ['"""Holds: {}."""', "# {}", 'x = """{} now"""'])
def test_banned_phrases_are_found_with_a_rewrite(bad: str, word: str, place: str) -> None:
    if place.startswith("#"):
        bad = bad.replace("\n", "\n# ")
    (fault,) = faults(place.format(bad) + "\n")
    assert fault.rule == "phrase"
    assert word in fault.rewrite


@pytest.mark.parametrize(
    "good",
    [
        "there is no folder",
        "There are no numbers",
        "it is no longer there",
        "these are no more than ten",
        "the URL is none of these",
        "the working tree if it is None",
        "besides, it is told apart",
        "what goes on here",
        "``x is no folder`` is code",
        "`None where` is code",
    ],
)
def test_english_is_left_alone(good: str) -> None:
    assert rules(f'"""Holds: {good}."""\n# {good}\n') == []


def test_a_fault_names_the_line_of_the_phrase() -> None:
    (found,) = faults('"""Holds it.\n\nFirst.\nThis is no folder.\n"""\n')
    assert (found.path, found.line) == ("cluster/part.py", 4)
    assert str(found).startswith(
        "cluster/part.py:4: phrase: 'it. First. This is no folder.': write"
    )


def test_strings_of_tests_and_words_of_code_are_data() -> None:
    assert rules('x = "it is no folder"\n', "tests/test_part.py") == []
    assert rules('x = {"lately": 1, "nobody": 2}\nlately = f(beside)\n') == []
    assert rules('x = f"{y} is no folder"\n') == ["phrase"]
    assert rules("x = 1  # type: ignore[beside]\n") == []


def test_documents_are_read_without_their_code(tmp_path: Path) -> None:
    (tmp_path / "docs" / "results").mkdir(parents=True)
    text = "# It\n\n```\nis no folder\n```\n\nIt is\nno folder, `is no code`.\n"
    (tmp_path / "docs" / "it.md").write_text(text)
    (tmp_path / "docs" / "results" / "it.md").write_text(text)
    (tmp_path / "CHANGELOG.md").write_text(text)
    (found,) = (fault for prose in read_tree(tmp_path) for fault in check_prose(prose))
    assert (found.path, found.line) == ("docs/it.md", 7)


def test_comments_on_successive_lines_are_one_piece() -> None:
    source = "x = 1  # it is\ny = 2  # no end\n# it is\n# no end\n"
    assert [fault.line for fault in faults(source)] == [3]
    kinds = [prose.kind for prose in read_python("cluster/part.py", source)]
    assert kinds == [Kind.COMMENT] * 3


def test_counts_can_only_fall() -> None:
    one = Fault("cluster/a.py", 1, "phrase", "", "")
    other = Fault("README.md", 1, "phrase", "", "")
    assert count([one, one, other]) == {".": {"phrase": 1}, "cluster": {"phrase": 2}}
    allowed = {"cluster": {"phrase": 2}}
    assert risen(count([one, one]), allowed) == []
    assert risen(count([one, one, other]), allowed) == [(".", "phrase")]
    assert risen(count([one]), {}) == [("cluster", "phrase")]
    assert may_replace(count([one, other]), allowed), "files may move between folders"
    assert not may_replace(count([one, one, other]), allowed)


def test_the_command_holds_to_the_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = tmp_path / BASELINE
    baseline.parent.mkdir(parents=True)
    part = tmp_path / "cluster" / "part.py"
    part.parent.mkdir()
    part.write_text('"""What it is."""\n')
    assert main([], tmp_path) == 1, "without a baseline nothing is allowed"
    out = capsys.readouterr()
    assert "cluster/part.py:1: riddle" in out.out
    assert "1 faults of rule riddle, 0 allowed" in out.err
    assert main(["--tighten"], tmp_path) == 0
    assert json.loads(baseline.read_text()) == {"cluster": {"riddle": 1}}
    assert main([], tmp_path) == 0
    assert main(["--list", "cluster"], tmp_path) == 1
    assert main(["cluster/part.py"], tmp_path) == 1
    part.write_text('"""What it is."""\nclass Part:\n    """Who it is."""\n')
    assert main([], tmp_path) == 1
    assert main(["--tighten"], tmp_path) == 1, "it never loosens"
    assert main(["--count"], tmp_path) == 0
    assert "2 (of 1)" in capsys.readouterr().out
    part.write_text('"""Holds it."""\n')
    assert main([], tmp_path) == 0
    assert "--tighten" in capsys.readouterr().out
    assert main(["--tighten"], tmp_path) == 0
    assert not baseline.exists(), "with nothing left to allow the check is absolute"
    assert main(["cluster/part.py", "no/such.py", "Makefile"], tmp_path) == 0
