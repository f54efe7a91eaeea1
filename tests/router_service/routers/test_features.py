"""Text to feature ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.routers.features import FeatureConfig, feature_ids, tokenize

CONFIG = FeatureConfig(buckets=1000, max_tokens=16)


def test_tokens_are_words_numbers_by_shape_and_punctuation() -> None:
    assert tokenize("Run Backup_2 at 12:30!", 32) == [
        "run", "backup", "_", "#", "at", "##", ":", "##", "!",
    ]  # fmt: skip


def test_case_and_compatibility_forms_do_not_matter() -> None:
    assert feature_ids("ＳＱＬ Straße", CONFIG) == feature_ids("sql STRASSE", CONFIG)


def test_the_value_of_a_number_does_not_matter_and_its_length_does() -> None:
    assert feature_ids("over 120", CONFIG) == feature_ids("over 999", CONFIG)
    assert feature_ids("over 120", CONFIG) != feature_ids("over 12", CONFIG)


def test_word_order_matters() -> None:
    assert sorted(feature_ids("a b c", CONFIG)) != sorted(feature_ids("c b a", CONFIG))


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    words = [f"{'abcdefghij'[n // 10]}{'abcdefghij'[n % 10]}" for n in range(100)]
    assert tokenize(" ".join(words), 16) == words[:4] + words[-12:]


def test_the_same_ids_in_every_process() -> None:
    assert feature_ids("ab", FeatureConfig()) == [5758]


@given(st.text(st.characters(), max_size=400))
def test_any_text_has_ids_in_range(text: str) -> None:
    ids = feature_ids(text, CONFIG)
    assert all(0 <= number < CONFIG.buckets for number in ids)
    assert bool(ids) == bool(tokenize(text, CONFIG.max_tokens))


@pytest.mark.parametrize("count", [250, 300_000])
@pytest.mark.parametrize("unit", ["word ", "x", "\n", "漢", "\ud800", "\u3300", "\ufdfa", "\u0390"])
def test_work_is_bounded_whatever_the_length(unit: str, count: int) -> None:
    """Also where a character becomes several under NFKC or case folding."""
    ids = feature_ids(unit * count, CONFIG)
    assert len(ids) <= CONFIG.max_tokens * 16 + 2 * CONFIG.max_tokens + 2
