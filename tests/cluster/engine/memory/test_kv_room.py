"""The KV cache's size: as configured, or what a GPU has left. No GPU is needed here."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from cluster.clock import SystemClock
from cluster.config import AdapterConfig, EngineConfig
from cluster.engine.execution.model_runner import ModelRunner
from cluster.engine.factory import build_engine
from cluster.engine.memory import kv_room
from cluster.engine.memory.kv_room import MOST_BLOCKS, cache_sizer, fitting_blocks
from cluster.engine.memory.memory_need import GIB, memory_need
from cluster.engine.memory.model_shape import ModelShape
from cluster.engine.model.model_loader import load_model, resolve_dtype
from cluster.errors import ConfigError
from kernels.lora.bank import AdapterBank

CONFIG = EngineConfig(
    device="cpu", block_size=4, max_model_len=64, max_batch_size=3, max_batch_tokens=150
)
CUDA = torch.device("cuda")


@given(
    free=st.integers(0, 200 * GIB),
    taken=st.dictionaries(st.text(), st.integers(0, 50 * GIB), max_size=4),
    block=st.integers(1, GIB),
    least=st.integers(1, 1000),
)
def test_blocks_fill_what_is_left_and_no_more(
    free: int, taken: dict[str, int], block: int, least: int
) -> None:
    left = free - sum(taken.values())
    if left < least * block:
        with pytest.raises(ConfigError, match=r"smaller engine.max_model_len"):
            fitting_blocks(free, taken, block, least)
        return
    blocks = fitting_blocks(free, taken, block, least)
    assert blocks * block <= left
    assert blocks == MOST_BLOCKS or (blocks + 1) * block > left


def test_a_refusal_names_what_takes_the_memory() -> None:
    with pytest.raises(ConfigError, match=r"4\.00 GiB free .*takes 2\.00 GiB.*adapters 3\.00"):
        fitting_blocks(4 * GIB, {"adapters": 3 * GIB}, GIB, 2)


def test_the_device_decides_the_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = EngineConfig()
    assert (auto.dtype_on("cuda"), auto.dtype_on("cpu")) == ("bfloat16", "float32")
    assert EngineConfig(dtype="float16").dtype_on("cpu") == "float16"
    assert resolve_dtype(auto, torch.device("cpu")) == torch.float32
    for has, found in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has, **_: has)
        assert resolve_dtype(auto, CUDA) == found
        assert resolve_dtype(EngineConfig(dtype="float32"), CUDA) == torch.float32


@pytest.mark.parametrize(("value", "said"), [(0, "kv_blocks"), ("all", "kv_blocks")])
def test_other_numbers_are_refused(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EngineConfig(kv_blocks=value)


def test_the_check_before_loading_counts_one_request_where_the_gpu_decides(
    tiny_model: Callable[..., Path],
) -> None:
    shape = ModelShape.read(tiny_model("llama"))
    assert shape is not None
    adapters = AdapterConfig()
    auto = memory_need(shape, EngineConfig(max_model_len=1000), adapters, "cuda")
    told = memory_need(
        shape, EngineConfig(max_model_len=1000, kv_blocks=63, dtype="bfloat16"), adapters, "cuda"
    )
    assert auto == told
    on_cpu = memory_need(shape, EngineConfig(), adapters, "cpu")
    assert on_cpu == memory_need(shape, EngineConfig(kv_blocks=1024), adapters, "cpu")


def test_a_gpus_cache_is_what_its_memory_leaves(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model("llama")
    loaded = load_model(folder, CONFIG)
    adapters = AdapterConfig(memory_bytes=GIB)
    assert cache_sizer(folder, loaded, CONFIG, adapters) is None
    on_gpu = replace(loaded, device=CUDA)
    told = CONFIG.model_copy(update={"kv_blocks": 7})
    assert cache_sizer(folder, on_gpu, told, adapters) is None

    monkeypatch.setattr(kv_room, "MOST_BLOCKS", 10**9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (9 * GIB, 20 * GIB))
    size = cache_sizer(folder, on_gpu, CONFIG, adapters)
    assert size is not None
    block = 4 * 2 * loaded.num_layers * loaded.num_kv_heads * loaded.head_dim * 4
    few, many = size(5 * GIB), size(5 * GIB - 100 * block)
    assert many - few == 100
    left = 9 * GIB - GIB - GIB - 5 * GIB  # adapters, a twentieth of the card, the step
    assert 0.9 * left < few * block < left
    with pytest.raises(ConfigError, match=r"2 GiB|GiB free"):
        size(8 * GIB)


def test_a_runner_tries_its_largest_step_before_it_sizes_the_cache(
    tiny_model: Callable[..., Path],
) -> None:
    loaded = load_model(tiny_model("llama"), CONFIG)
    bank = AdapterBank(loaded.sites, 1, 8, dtype=loaded.dtype, device=loaded.device)
    seen: list[int] = []

    def size(step: int) -> int:
        assert loaded.context.kv_caches == ()
        seen.append(step)
        return 9

    runner = ModelRunner(loaded, CONFIG, bank, size_cache=size)
    assert seen == [0]  # a CPU's allocator does not tell
    assert runner.kv_blocks == 9
    assert {cache.kv.shape[0] for cache in loaded.context.kv_caches} == {9}


def test_what_was_decided_is_logged(tiny_model: Callable[..., Path]) -> None:
    with capture_logs() as logs:
        built = build_engine(
            tiny_model("llama"),
            CONFIG,
            AdapterConfig(),
            clock=SystemClock(),
            on_chunks=lambda _: None,
            new_seed=lambda: 0,
        )
    (line,) = (line for line in logs if line["event"] == "engine built")
    assert (line["dtype"], line["kv_blocks"], line["tokens"]) == ("float32", 1024, 4096)
    assert line["device"].startswith("cpu: ")
    assert line["kernels"]
    assert built.engine.stats().kv_blocks_total == 1024
