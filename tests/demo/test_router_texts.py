"""The texts that the demo's router is trained on, and that they keep clear of what measures it."""

from random import Random

import pytest

from demo.generator.near_copies import NearCopies
from demo.generator.router_texts import FOLLOW_UP, router_texts
from demo.generator.skills import GENERAL, SKILLS
from demo.generator.texts.patterns import FOLDER, VOCABULARY, read_by_label, read_patterns
from demo.generator.wordings import (
    FILES,
    TENANTS,
    held_back_texts,
    read_wordings,
    wordings_folder,
)

KINDS = {
    "in-domain", "chat", "near miss", "restricted", "follow-up", "wrapped", "other language",
    "long",
}  # fmt: skip


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    return router_texts(0, held_back_texts())


@pytest.mark.slow
def test_every_skill_the_base_and_follow_ups_have_texts_in_plenty(
    texts: dict[str, list[str]],
) -> None:
    assert texts.keys() == {*SKILLS, GENERAL.name, FOLLOW_UP}
    assert all(len(set(group)) > 3000 for group in texts.values())
    assert not [text for group in texts.values() for text in group if not text.strip()]


@pytest.mark.slow
def test_no_text_is_a_near_copy_of_a_wording(texts: dict[str, list[str]]) -> None:
    copies = NearCopies(held_back_texts())
    assert not [text for group in texts.values() for text in group if copies.of(text)]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_texts(texts: dict[str, list[str]]) -> None:
    assert router_texts(0, held_back_texts()) == texts
    assert router_texts(1)[FOLLOW_UP] != texts[FOLLOW_UP]


@pytest.mark.parametrize("name", sorted(f.name for f in FOLDER.glob("*.txt")))
def test_every_pattern_of_a_file_expands(name: str) -> None:
    if name == VOCABULARY:
        return
    patterns = read_patterns(name)
    rng = Random(0)
    for line in patterns.lines:
        for _ in range(20):
            text = patterns.expand(rng, line).replace("{}", "").replace("{ }", "")
            assert text.strip()
            assert not set("[]|") & set(text), text


def test_languages_have_every_label() -> None:
    assert read_by_label("languages.txt").keys() == {*SKILLS, "base"}


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("Which books did Orwell write?", True),
        ("which books did orwell ever write", True),
        ("please, which books did Orwell write", True),
        ("which songs did Orwell write", False),
        ("Orwell", False),
        ("", False),
        ("at 12 on 11 May", True),
        ("at 99 on 10 May", True),
        ("at 9 on 1 May", False),
    ],
)
def test_near_copies_share_their_words(text: str, near: bool) -> None:
    copies = NearCopies(["Which books did Orwell write", "at 10 on 20 May", "hello"])
    assert copies.of(text) is near


def test_the_wordings_are_of_all_kinds_and_in_one_file_each() -> None:
    dev, test = (read_wordings(wordings_folder() / name) for name in FILES)
    assert len(test) >= 300
    assert {wording.kind for wording in test} == KINDS
    assert not {w.turns for w in dev} & {w.turns for w in test}
    assert len({w.turns for w in test}) == len(test)
    for wording in (*dev, *test):
        assert wording.skill in {"", *SKILLS}
        assert wording.tenant in TENANTS
        assert (len(wording.turns) > 1) == (wording.kind == "follow-up")
        assert wording.wanted in {"", wording.skill}
        assert wording.kind != "restricted" or wording.wanted == ""
