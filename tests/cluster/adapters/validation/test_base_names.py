"""Checks which names on the hub are of one base."""

import pytest

from cluster.adapters.validation.base_names import (
    ALIASES,
    canonical,
    is_another_model,
    is_quantised_copy,
)

BASE = "meta-llama/Llama-3.1-8B-Instruct"


@pytest.mark.parametrize(
    "name",
    [
        "unsloth/Llama-3.1-8B-Instruct",
        "unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit",
        "unsloth/llama-3.1-8b-instruct-unsloth-bnb-4bit",
        "mlx-community/Llama-3.1-8B-Instruct-4bit",
        "mlx-community/Llama-3.1-8B-Instruct-8bit",
        "somebody/Llama-3.1-8B-Instruct-GPTQ",
        "somebody/Llama-3.1-8B-Instruct-GPTQ-Int4",
        "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4",
        "neuralmagic/Llama-3.1-8B-Instruct-FP8",
        "neuralmagic/Llama-3.1-8B-Instruct-FP8-dynamic",
        "RedHatAI/Llama-3.1-8B-Instruct-quantized.w4a16",
        "somebody/Llama-3.1-8B-Instruct_bnb_nf4",
    ],
)
def test_quantised_copies_are_the_same(name):
    assert not is_another_model(name, BASE)
    assert not is_another_model(BASE, name)
    assert is_quantised_copy(name, BASE) == (name.rpartition("/")[2].lower() != BASE[11:].lower())


@pytest.mark.parametrize(
    "name",
    [
        "meta-llama/Llama-3.1-8B",
        "meta-llama/Llama-3.1-70B-Instruct-bnb-4bit",
        "unsloth/Llama-3.1-8B-bnb-4bit",
        "unsloth/Llama-3.2-8B-Instruct",
        "me/Llama-3.1-8B-Instruct-abliterated",
        "me/Llama-3.1-8B-Instruct-code-4bit",
        "me/-4bit",
    ],
)
def test_other_models_are_not(name):
    assert is_another_model(name, BASE)


@pytest.mark.parametrize("name", ["", "/models/x", "./out-4bit", "plain-name"])
def test_of_a_folder_nothing_is_known(name):
    assert not is_another_model(name, BASE)


def test_aliases_lead_to_one_name_each():
    for name, other in ALIASES.items():
        assert (name, other) == (name.lower(), other.lower())
        assert canonical(f"x/{other}") == other, "an alias of an alias"
