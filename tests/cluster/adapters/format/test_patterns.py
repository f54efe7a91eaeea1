"""Expressions of strangers: the standard library's answer where it has one, and an end in time."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.adapters.format.patterns import MAX_PATTERNS, Patience
from cluster.adapters.format.peft_config import read_peft_config
from cluster.errors import AdapterMalformed, AdapterUnsupported

MODULE = "model.layers.10.self_attn.q_proj"
NEVER_ENDING = r"(.|..|...)*[!?]"


@pytest.mark.parametrize("method", ["match", "matches"])
def test_a_pattern_that_would_take_years(method):
    with pytest.raises(AdapterUnsupported, match="takes longer"):
        getattr(Patience(), method)(NEVER_ENDING, MODULE)


def test_patterns_that_take_too_long_together():
    seconds = iter(range(100))
    patience = Patience(2.5, now=lambda: next(seconds))
    patience.match("a", "a")
    patience.match("b", "a")
    with pytest.raises(AdapterUnsupported, match="match all modules within"):
        patience.match("c", "a")


def test_a_pattern_that_is_none():
    with pytest.raises(AdapterMalformed, match="not a regular expression"):
        Patience().matches("(", MODULE)


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj{e<=1}",
        r"q_proj\\{e<=1}",
        "(?:q_prok){s<2}",
        "[[:alpha:]]+",
        "(?V1)q",
        r"\h+",
        "(?<=a+)q",
        "a(?i)b",
    ],
)
def test_patterns_that_peft_reads_in_another_way(pattern):
    with pytest.raises((AdapterUnsupported, AdapterMalformed)):
        Patience().matches(pattern, MODULE)


@pytest.mark.parametrize("pattern", ["(?:" * 20000, "x" * 70_000, "(" + "|".join("ab" * 40_000)])
def test_messages_never_print_a_whole_pattern(tmp_path, write_adapter, pattern):
    folder = write_adapter(tmp_path, target_modules=pattern)
    with pytest.raises((AdapterUnsupported, AdapterMalformed), match="target_modules") as refusal:
        read_peft_config(folder / "adapter_config.json")
    assert len(refusal.value.message) < 400 + len(str(tmp_path))


PARTS = st.sampled_from(
    ["model", r"\.", ".*", r"\d+", "layers", "(?:q|k)_proj", "[a-z_]+", "^", "$"]
)


@given(st.lists(PARTS, max_size=6).map("".join), st.sampled_from([MODULE, "q_proj", "lm_head", ""]))
def test_agrees_with_the_standard_library(pattern, text):
    patience = Patience()
    assert patience.matches(pattern, text) == (re.fullmatch(pattern, text) is not None)
    found, expected = patience.match(pattern, text), re.match(pattern, text)
    assert (found and found.group()) == (expected and expected.group())


def test_a_config_says_which_key_is_wrong(tmp_path, write_adapter):
    folder = write_adapter(tmp_path, target_modules="(")
    with pytest.raises(AdapterMalformed, match="target_modules: not a regular"):
        read_peft_config(folder / "adapter_config.json")
    write_adapter(tmp_path, rank_pattern={f"m{i}": 4 for i in range(MAX_PATTERNS + 1)})
    with pytest.raises(AdapterMalformed, match=f"rank_pattern: expected at most {MAX_PATTERNS}"):
        read_peft_config(folder / "adapter_config.json")
