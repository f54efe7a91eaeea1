"""Checks the bank that adapters are held in."""

import pytest
import torch

from cluster.config import AdapterConfig, EngineConfig
from cluster.engine.model.adapter_bank import make_bank
from cluster.engine.model.model_loader import load_model
from cluster.errors import ConfigError


def bank_for(model_dir, adapter_dtype, **engine):
    config = EngineConfig(device="cpu", **engine)
    return make_bank(load_model(model_dir, config), config, AdapterConfig(dtype=adapter_dtype))


@pytest.mark.parametrize(
    ("engine", "adapter_dtype", "storage"),
    [
        ({}, "auto", torch.float32),
        ({}, "float32", torch.float32),
        ({}, "bfloat16", torch.bfloat16),
        ({"quantize": "int8"}, "auto", torch.bfloat16),
        ({"quantize": "int8"}, "float32", torch.float32),
        ({"dtype": "bfloat16"}, "auto", torch.bfloat16),
        ({"dtype": "bfloat16", "quantize": "int8"}, "auto", torch.bfloat16),
        ({"dtype": "float16"}, "float16", torch.float16),
    ],
)
def test_storage_follows_the_configuration(tiny_model, engine, adapter_dtype, storage):
    bank = bank_for(tiny_model("llama"), adapter_dtype, **engine)
    assert bank.storage == storage
    assert bank.dtype == getattr(torch, engine.get("dtype", "float32"))


@pytest.mark.parametrize(
    ("engine", "adapter_dtype"),
    [({}, "float16"), ({"dtype": "bfloat16"}, "float32"), ({"dtype": "float16"}, "bfloat16")],
)
def test_what_does_not_go_together_is_refused(tiny_model, engine, adapter_dtype):
    with pytest.raises(ConfigError, match=rf"adapters\.dtype is {adapter_dtype}"):
        bank_for(tiny_model("llama"), adapter_dtype, **engine)
