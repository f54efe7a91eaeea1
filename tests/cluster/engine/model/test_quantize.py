"""int8 weights in the whole engine: every family, every kind of company, refusals."""

import gc

import pytest
import torch
import transformers
from pydantic import ValidationError

from cluster.config import EngineConfig
from cluster.domain.request import SamplingParams
from cluster.engine.execution.fused_decoder import FusedDecoder
from cluster.engine.model import quantize
from cluster.engine.model.lora_layers import HeadProjection, SingleProjection
from cluster.engine.model.model_loader import load_model
from cluster.engine.model.quantize import check_quantize, make_int8_product
from cluster.errors import ConfigError, ModelSourceError
from kernels.int8.amx import AmxLinear
from kernels.int8.onednn import OneDnnLinear
from tests.conftest import TINY_FAMILIES
from tests.support.engines import make_request

VOCAB = 97
GREEDY = SamplingParams(max_tokens=12, temperature=0.0)
CASES = {f"{length}": [(7 * i * i + 3 * i + length) % VOCAB for i in range(length)] for length in
         (1, 2, 9, 20, 33)}  # fmt: skip


@pytest.fixture(params=["the CPU's best", "onednn"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "onednn":
        monkeypatch.setattr(quantize, "amx_available", lambda: False)
    return request.param


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_logprobs_are_near_those_of_transformers(running_engine, tiny_model, way, family: str):
    engine = running_engine(family, quantize="int8")
    assert isinstance(engine.built.engine._runner._fused, FusedDecoder)
    sampling = SamplingParams(max_tokens=3, temperature=0.0, logprobs=3)
    answer = engine.ask(make_request("a", CASES["20"], sampling))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tiny_model(family), dtype=torch.float32
    )
    with torch.inference_mode():
        logits = model(torch.tensor([CASES["20"] + answer.tokens])).logits[0, 19:-1]
    expected = logits.log_softmax(-1)
    for row, found in enumerate(answer.logprobs):
        for token, value in found.top:
            assert value == pytest.approx(expected[row, token].item(), abs=0.3)


def test_batched_and_chunked_equal_alone(running_engine, way):
    def adapted(**config: object):
        engine = running_engine(quantize="int8", **config)
        generator = torch.Generator().manual_seed(3)
        tensors = {
            path: (
                torch.randn(4, d_in, generator=generator) * d_in**-0.5,
                torch.randn(d_out, 4, generator=generator),
                0.5,
            )
            for path, (d_out, d_in) in engine.built.module_shapes.items()
        }
        engine.load(0, tensors)
        return engine

    mixtures = {name: ((0, 0.7),) if index % 2 else () for index, name in enumerate(CASES)}
    lonely = adapted(prefix_cache=False)
    alone = {
        name: lonely.ask(make_request(name, tokens, GREEDY), mixtures[name]).tokens
        for name, tokens in CASES.items()
    }
    for config in ({}, {"max_batch_tokens": 16}):
        engine = adapted(**config)
        for name, tokens in CASES.items():
            engine.submit(make_request(name, tokens, GREEDY), mixtures[name])
        engine.wait(*CASES)
        assert {name: engine.answers[name].tokens for name in CASES} == alone


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_activations_in_half_precision(running_engine, dtype: str):
    engine = running_engine(quantize="int8", dtype=dtype)
    assert len(engine.ask(make_request("a", CASES["9"], GREEDY)).tokens) == 12


def test_the_full_weights_are_gone(tiny_model):
    folder = tiny_model("llama")  # its head is tied
    before = {id(o) for o in gc.get_objects() if type(o) is torch.nn.Parameter}
    loaded = load_model(folder, EngineConfig(device="cpu", quantize="int8"))
    products = [
        module.group.product if isinstance(module, SingleProjection) else module.product
        for module in loaded.model.modules()
        if isinstance(module, SingleProjection | HeadProjection)
    ]
    assert len(products) == 2 * 2 + 1
    assert all(isinstance(product, AmxLinear | OneDnnLinear) for product in products)
    gc.collect()
    shapes = {tuple(p.shape) for p in loaded.model.parameters() if p.ndim == 2}
    assert shapes == {(VOCAB, 64)}  # the embedding
    made = [
        tuple(o.shape)
        for o in gc.get_objects()
        if type(o) is torch.nn.Parameter and id(o) not in before
    ]
    assert not {(64, 64), (32, 64), (96, 64), (64, 96)} & set(made)


def test_an_unknown_value_is_refused_by_name():
    with pytest.raises(ValidationError, match="quantize"):
        EngineConfig(quantize="int4")  # type: ignore[arg-type]


def test_a_gpu_is_refused():
    check_quantize("none", torch.device("cuda"))
    with pytest.raises(ConfigError, match=r"engine\.quantize is 'int8'.*'cuda'"):
        check_quantize("int8", torch.device("cuda"))


def test_a_torch_that_cannot_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quantize, "amx_available", lambda: False)
    monkeypatch.setattr(quantize, "onednn_available", lambda: False)
    with pytest.raises(ConfigError, match="oneDNN"):
        check_quantize("int8", torch.device("cpu"))


def test_a_broken_weight_is_refused(way):
    weight = torch.ones(4, 4)
    weight[1, 1] = float("inf")
    with pytest.raises(ModelSourceError, match="cannot be int8"):
        make_int8_product(weight, None)
