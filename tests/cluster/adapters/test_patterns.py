"""Expressions of strangers: the standard library's answer where it has one, and an end in time."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.adapters.patterns import MAX_PATTERNS, match, matches
from cluster.adapters.peft_config import read_peft_config
from cluster.errors import AdapterMalformed, AdapterUnsupported

MODULE = "model.layers.10.self_attn.q_proj"
NEVER_ENDING = r"(.|..|...)*[!?]"


@pytest.mark.parametrize("function", [match, matches])
def test_a_pattern_that_would_take_years(function):
    with pytest.raises(AdapterUnsupported, match="takes longer"):
        function(NEVER_ENDING, MODULE)


def test_a_pattern_that_is_none():
    with pytest.raises(AdapterMalformed, match="not a regular expression"):
        matches("(", MODULE)


PARTS = st.sampled_from(
    ["model", r"\.", ".*", r"\d+", "layers", "(?:q|k)_proj", "[a-z_]+", "^", "$"]
)


@given(st.lists(PARTS, max_size=6).map("".join), st.sampled_from([MODULE, "q_proj", "lm_head", ""]))
def test_agrees_with_the_standard_library(pattern, text):
    assert matches(pattern, text) == (re.fullmatch(pattern, text) is not None)
    found, expected = match(pattern, text), re.match(pattern, text)
    assert (found and found.group()) == (expected and expected.group())


def test_a_config_says_which_key_is_wrong(tmp_path, write_adapter):
    folder = write_adapter(tmp_path, target_modules="(")
    with pytest.raises(AdapterMalformed, match="target_modules: not a regular"):
        read_peft_config(folder / "adapter_config.json")
    write_adapter(tmp_path, rank_pattern={f"m{i}": 4 for i in range(MAX_PATTERNS + 1)})
    with pytest.raises(AdapterMalformed, match=f"rank_pattern: expected at most {MAX_PATTERNS}"):
        read_peft_config(folder / "adapter_config.json")
