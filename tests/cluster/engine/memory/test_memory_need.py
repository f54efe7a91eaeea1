"""Checks whether a model fits, from numbers alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import AdapterConfig, EngineConfig
from cluster.engine.execution.captured_head import CapturedHead
from cluster.engine.memory import available_memory
from cluster.engine.memory.available_memory import cgroup_headrooms, check_memory
from cluster.engine.memory.gpu_buffers import batch_bytes
from cluster.engine.memory.memory_need import GIB, check_fits, memory_need
from cluster.engine.memory.model_shape import ModelShape
from cluster.engine.model.model_loader import load_model
from cluster.errors import ConfigError
from kernels.attention.attention_triton_batch import TritonPagedBatch
from kernels.lora.bank import AdapterBank
from kernels.lora.lora_triton_batch import TritonLoraBatch
from kernels.lora.sites import FusedSite

SEVEN_B = ModelShape(
    parameters=6_738_415_616,
    layers=32,
    heads=32,
    kv_heads=32,
    head_dim=128,
    hidden=4096,
    inner=11008,
    vocabulary=32000,
    tied=False,
)
SMALL = ModelShape(
    parameters=134_515_008,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    hidden=576,
    inner=1536,
    vocabulary=49152,
    tied=True,
)


def need(shape: ModelShape, device: str = "cpu", **engine: object):
    return memory_need(shape, EngineConfig(**engine), AdapterConfig(), device)


def test_terms_of_a_small_model():
    found = need(SMALL)
    assert found.weights == 134_515_008 * 4
    assert found.packed == 49152 * 576 * 4  # the tied head
    assert found.kv_cache == 1024 * 16 * 2 * 30 * 3 * 64 * 4
    assert found.adapters == 2 * 512 * 2**20  # in slots, and copies in memory
    assert need(SMALL, "cuda").adapters == 512 * 2**20
    assert 2.2 < found.total / GIB < 2.7


def test_terms_of_a_large_one_on_a_gpu():
    found = need(SEVEN_B, "cuda", dtype="bfloat16", kv_blocks=2048)
    assert found.weights == 2 * 6_738_415_616
    assert found.packed == 0
    assert found.kv_cache == 16 * GIB
    assert found.loading == found.weights


def test_buffers_of_a_gpu_are_counted_and_can_be_less():
    found = need(SEVEN_B, "cuda", dtype="bfloat16", kv_blocks=2048)
    eager = need(SEVEN_B, "cuda", dtype="bfloat16", kv_blocks=2048, cuda_graphs=False)
    logits = 2 * 32 * 32000 * 2
    partial_sums = 32 * 32 * 16 * (128 + 2) * 4
    assert found.buffers - eager.buffers == logits + 32 * 11008 * 2 * 6 + partial_sums
    assert found.running - eager.running == found.buffers - eager.buffers
    assert need(SEVEN_B, "cpu").buffers == 0
    assert "buffers of kernels and graphs" in refusal("cuda", dtype="bfloat16")
    assert "buffers" not in refusal()


def seven_b_sites() -> list[FusedSite]:
    sites = []
    for layer in range(SEVEN_B.layers):
        for name, width_in, widths in (
            ("qkv", 4096, (4096, 4096, 4096)),
            ("o", 4096, (4096,)),
            ("gate_up", 4096, (11008, 11008)),
            ("down", 11008, (4096,)),
        ):
            slices = tuple((f"{layer}.{name}.{part}", width) for part, width in enumerate(widths))
            sites.append(FusedSite(f"{layer}.{name}", width_in, slices))
    head = SEVEN_B.vocabulary
    return [*sites, FusedSite("lm_head", 4096, (("lm_head", head),))]


def device_bytes(*owners: object) -> int:
    """Sum the bytes of the tensors that are attributes of these, each storage once."""
    found: dict[int, int] = {}
    for owner in owners:
        for value in vars(owner).values():
            for tensor in value if isinstance(value, tuple) else (value,):
                if isinstance(tensor, torch.Tensor) and tensor is not getattr(
                    owner, "_host_tables", None
                ):
                    storage = tensor.untyped_storage()
                    found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


@pytest.mark.parametrize("batch", [8, 32])
@pytest.mark.parametrize(("mixture", "rank"), [(1, 16), (8, 64)])
def test_the_buffers_are_those_that_kernels_make(batch: int, mixture: int, rank: int):
    engine = EngineConfig(max_batch_size=batch, max_batch_tokens=256, max_model_len=4096)
    adapters = AdapterConfig(max_mixture=mixture, max_rank=rank, slots=4)
    bank = AdapterBank(seven_b_sites(), adapters.slots, rank)
    lora = TritonLoraBatch(bank, max_tokens=256, max_rows=batch, max_pairs=mixture)
    paged = TritonPagedBatch(
        max_tokens=256, max_rows=batch, max_len=4096, block_size=engine.block_size, device="cpu"
    )
    inputs = 2 * 8 * batch  # of captured steps
    head = CapturedHead(lora, len(bank.sites) - 1)
    made = device_bytes(lora, lora.table, paged, head, head._own, head._own.table) + inputs
    counted = batch_bytes(SEVEN_B, engine, adapters)
    assert made <= counted <= 1.02 * made


def test_int8_weights_are_small_but_are_loaded_large():
    found = need(SMALL, quantize="int8")
    embedding = 49152 * 576
    assert found.weights == embedding * 4 + (134_515_008 - embedding)
    assert found.packed == embedding
    large = need(SEVEN_B, quantize="int8", kv_blocks=64)
    assert large.loading > large.running
    assert large.total == large.loading


@given(st.integers(0, 40 * GIB), st.integers(1, 4))
def test_what_fits_is_taken_and_what_does_not_is_refused(available: int, replicas: int):
    engine = EngineConfig(dtype="bfloat16")
    found = memory_need(SEVEN_B, engine, AdapterConfig(), "cpu")

    def check() -> None:
        check_fits(found, available, engine, model="m", device="cpu", replicas=replicas)

    if replicas * found.total <= available:
        check()
    else:
        with pytest.raises(ConfigError):
            check()


def refusal(device: str = "cpu", replicas: int = 1, **engine: object) -> str:
    config = EngineConfig(**engine)
    found = memory_need(SEVEN_B, config, AdapterConfig(), device)
    with pytest.raises(ConfigError) as caught:
        check_fits(found, 8 * GIB, config, model="seven", device=device, replicas=replicas)
    return caught.value.message


def test_a_refusal_says_how_much_what_for_and_what_helps():
    message = refusal()
    assert "seven does not fit: 42.24 GiB are needed" in message
    assert "8.00 GiB are available on the cpu" in message
    for term in ("weights 25.10 (float32)", "KV cache 16.00 (1024 blocks)", "adapters 1.00"):
        assert term in message
    for helps in ("engine.quantize int8", "engine.dtype bfloat16", "engine.kv_blocks"):
        assert helps in message
    assert "adapters.memory_bytes, a smaller adapters.host_bytes" in message
    assert "tensor parallelism is not supported" in message
    assert "fewer replicas" not in message


def test_a_refusal_recommends_only_what_would_change_something():
    message = refusal("cuda", dtype="bfloat16")
    assert "int8" not in message
    assert "engine.dtype" not in message
    assert "fewer replicas" in refusal(replicas=2)
    assert "for each of 2 replicas" in refusal(replicas=2)
    assert "loading alone takes" in refusal(quantize="int8", kv_blocks=64)


@pytest.mark.parametrize("family", ["llama", "llama_untied", "qwen3", "gemma"])
def test_shapes_are_those_of_the_loaded_model(tiny_model: Callable[..., Path], family: str):
    folder = tiny_model(family)
    shape = ModelShape.read(folder)
    loaded = load_model(folder, EngineConfig(device="cpu"))
    assert shape is not None
    assert (shape.layers, shape.kv_heads, shape.head_dim) == (
        loaded.num_layers,
        loaded.num_kv_heads,
        loaded.head_dim,
    )
    assert shape.vocabulary == loaded.vocab_size
    assert shape.tied == (family in ("llama", "gemma"))
    found = memory_need(shape, EngineConfig(kv_blocks=7), AdapterConfig(), "cpu")
    cache = torch.empty(7, 16, 2 * loaded.num_kv_heads, loaded.head_dim)
    assert found.kv_cache == loaded.num_layers * cache.nbytes


def test_a_folder_that_does_not_tell_is_left_to_the_loader(tmp_path: Path):
    assert ModelShape.read(tmp_path) is None
    (tmp_path / "config.json").write_text('{"model_type": "unheard of"}')
    assert ModelShape.read(tmp_path) is None
    check_memory(tmp_path, EngineConfig(device="cpu"), AdapterConfig())


def test_the_check_before_loading(tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    folder = tiny_model("llama")
    engine, adapters = EngineConfig(device="cpu", kv_blocks=16), AdapterConfig(memory_bytes=2**20)
    check_memory(folder, engine, adapters)
    monkeypatch.setattr(available_memory, "available_bytes", lambda _: 2**20)
    with pytest.raises(ConfigError, match="does not fit"):
        check_memory(folder, engine, adapters)


def limited(folder: Path, most: str, used: int, inactive: int, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    (folder / names[0]).write_text(f"{most}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")


def test_limits_of_containers(tmp_path: Path):
    limited(tmp_path / "kube" / "pod", "1000", 700, 50)
    limited(tmp_path / "kube", "max", 900, 0)
    limited(tmp_path, "5000", 900, 0)
    assert list(cgroup_headrooms(tmp_path, "0::/kube/pod\n")) == [350, 4100]
    assert list(cgroup_headrooms(tmp_path, "0::/\n")) == [4100]
    assert list(cgroup_headrooms(tmp_path, "0::/elsewhere\n")) == [4100]


def test_limits_of_older_containers(tmp_path: Path):
    limited(tmp_path / "memory", str(2**63 - 4096), 900, 0, version=1)
    limited(tmp_path / "memory" / "docker", "1000", 1200, 0, version=1)
    membership = "4:cpu,cpuacct:/docker\n3:memory:/docker\n"
    assert list(cgroup_headrooms(tmp_path, membership)) == [0]
    assert list(cgroup_headrooms(tmp_path, "3:cpu:/x\n")) == []
