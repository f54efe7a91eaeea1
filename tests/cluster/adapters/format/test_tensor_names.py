"""A name never stands for two modules, and what is taken out of names is the same in all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.adapters.format.tensor_names import read_tensor_names
from cluster.errors import AdapterError, AdapterMalformed, AdapterUnsupported

Q = "model.layers.0.self_attn.q_proj"
V = "model.layers.1.self_attn.v_proj"
P = "base_model.model."


def modules(*names: str) -> set[str]:
    return {found.module for found in read_tensor_names("x", names).lora.values()}


def test_the_adapter_s_name_is_taken_out():
    found = read_tensor_names("x", [f"{P}{Q}.lora_A.mine.weight", f"{P}{V}.lora_B.mine.weight"])
    assert {name.module for name in found.lora.values()} == {Q, V}
    assert found.adapter == "mine"


@pytest.mark.parametrize(
    "names",
    [
        [f"{P}{Q}.lora_A.one.weight", f"{P}{Q}.lora_B.two.weight"],
        [f"{P}{Q}.lora_A.one.weight", f"{P}{Q}.lora_A.weight"],
        [f"{P}{Q}.lora_A.weight", f"{P}{V}.lora_A.default.weight"],
    ],
)
def test_it_must_be_one_in_all(names):
    with pytest.raises(AdapterMalformed, match="name behind lora_A"):
        read_tensor_names("x", names)


@pytest.mark.parametrize(
    "names",
    [
        [f"{P}_orig_mod.{Q}.lora_A.weight", f"{P}{V}.lora_A.weight"],
        [f"{P}_orig_mod.{Q}.lora_A.weight", f"{P}model._orig_mod.layers.0.x.lora_A.weight"],
        [f"{P}_orig_mod._orig_mod.{Q}.lora_A.weight"],
        [f"module.{P}{Q}.lora_A.weight", f"_orig_mod.{P}{Q}.lora_B.weight"],
        [f"module.module.{P}{Q}.lora_A.weight"],
        [f"module._orig_mod.{P}{Q}.lora_A.weight"],
    ],
)
def test_a_wrapper_must_be_one_at_one_place(names):
    with pytest.raises(AdapterUnsupported):
        read_tensor_names("x", names)


def test_a_module_that_is_called_module_is_one():
    assert modules(f"{P}model.module.q_proj.lora_A.weight") == {"model.module.q_proj"}


@pytest.mark.parametrize(
    ("name", "copied"),
    [
        ("base_model.model.model.embed_tokens.weight", "model.embed_tokens.weight"),
        ("base_model.model.model.embed_tokens.base_layer.weight", "model.embed_tokens.weight"),
        ("base_model.model.lm_head.weight", "lm_head.weight"),
        ("base_model.model.lm_head.base_layer.weight", "lm_head.weight"),
    ],
)
def test_copies_of_the_vocabulary_are_told_apart(name, copied):
    found = read_tensor_names("x", [name])
    assert (found.vocabulary, found.lora) == ({name: copied}, {})


def test_lora_on_the_head_is_a_module_like_others():
    assert modules(f"{P}lm_head.lora_A.weight") == {"lm_head"}


PART = st.sampled_from(
    (
        *("base_model", "model", "layers", "0", "q_proj", "lm_head", "embed_tokens", "lora_A"),
        *("lora_B", "default", "_orig_mod", "module", "base_layer", "weight", "bias", ""),
    )
)


@given(st.lists(st.lists(PART, min_size=1, max_size=9).map(".".join), max_size=5, unique=True))
def test_no_two_tensors_are_one_matrix(names):
    try:
        found = read_tensor_names("x", names)
    except AdapterError:
        return
    assert len({(name.module, name.side) for name in found.lora.values()}) == len(found.lora)
    assert found.lora.keys() | found.vocabulary.keys() == set(names)


def test_long_names_are_refused_briefly():
    with pytest.raises(AdapterMalformed) as refusal:
        read_tensor_names("x", ["a" * 1_000_000])
    assert len(refusal.value.message) < 400
