"""Checks which batches a step gets, and what is captured.

The kernels behind them are tested elsewhere.
"""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from cluster.config import EngineConfig
from cluster.engine.execution import model_runner, step_batches
from cluster.engine.execution.step_batches import (
    TorchBatches,
    TritonBatches,
    make_batches,
    triton_batches,
)
from cluster.engine.model.model_loader import load_model
from cluster.errors import ConfigError
from kernels.attention.attention_batch import PagedBatch
from kernels.attention.attention_triton_batch import TritonPagedBatch
from kernels.lora.bank import AdapterBank
from kernels.lora.lora_batch import LoraBatch
from kernels.lora.lora_triton_batch import TritonLoraBatch
from kernels.lora.lora_triton_dispatch import available
from tests.support.engine_steps import Case, Recorded, Steps

CONFIG = EngineConfig(
    dtype="float32",
    device="cpu",
    block_size=4,
    kv_blocks=32,
    max_model_len=64,
    max_batch_size=3,
    max_batch_tokens=16,
)


@pytest.fixture
def loaded(tiny_model):
    return load_model(tiny_model("llama"), CONFIG)


@pytest.fixture
def bank(loaded):
    bank = AdapterBank(loaded.sites, 4, 8)
    for slot in range(3):
        bank.write(
            slot,
            {
                path: (torch.randn(2, site.in_features), torch.randn(width, 2), 1.0)
                for site in loaded.sites
                for path, width in site.out_slices
            },
        )
    return bank


@pytest.fixture
def batches(loaded, bank):
    larger = TorchBatches(bank, CONFIG.block_size, loaded.dtype, loaded.device)
    return triton_batches(loaded, CONFIG, bank, larger, None, max_pairs=2)


def test_a_cpu_gets_torch_batches(loaded, bank):
    batches = make_batches(loaded, CONFIG, bank)
    assert isinstance(batches, TorchBatches)
    assert isinstance(batches.attention([[0]], [0], [3]), PagedBatch)
    assert isinstance(batches.lora([(3, ((0, 1.0),))]), LoraBatch)
    assert batches.lora([(3, ())]) is None


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_a_gpu_gets_compiled_kernels_and_captures_where_asked(
    loaded, bank, monkeypatch, cuda_graphs
):
    compiled, captures = [], []

    class Capture(Recorded):
        def __init__(self):
            super().__init__()
            captures.append(self)

    monkeypatch.setattr(step_batches, "available", lambda _: True)
    monkeypatch.setattr(step_batches, "compile_kernels", compiled.append)
    monkeypatch.setattr(step_batches, "CudaCapture", Capture)
    config = CONFIG.model_copy(update={"cuda_graphs": cuda_graphs})
    batches = make_batches(loaded, config, bank, max_pairs=2)
    batches.capture(lambda inputs, *_: torch.zeros(inputs.shape[1], 5))
    assert isinstance(batches, TritonBatches)
    assert [batch.max_pairs for batch in compiled] == [2]
    assert [capture.captured for capture in captures] == [[3, 3, 2, 2, 1, 1]] * cuda_graphs


def test_a_missing_compiler_is_said_with_what_to_install(loaded, bank, monkeypatch):
    def fail(_):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")

    monkeypatch.setattr(step_batches, "available", lambda _: True)
    monkeypatch.setattr(step_batches, "compile_kernels", fail)
    with pytest.raises(ConfigError, match=r"Triton needs a C compiler .* install gcc"):
        make_batches(loaded, CONFIG.model_copy(update={"cuda_graphs": False}), bank)


def test_a_rest_lets_go_of_adapters(loaded):
    bank = AdapterBank(loaded.sites, 2, 8, dtype=loaded.dtype, separate=True)
    for slot in range(2):
        bank.write(
            slot,
            {
                p: (torch.ones(2, s.in_features), torch.ones(w, 2), 1.0)
                for s in loaded.sites
                for p, w in s.out_slices
            },
        )
    larger = TorchBatches(bank, CONFIG.block_size, loaded.dtype, loaded.device)
    batches = triton_batches(loaded, CONFIG, bank, larger, Recorded(), max_pairs=2)
    batches.capture(lambda inputs, *_: torch.zeros(inputs.shape[1], 5))
    batches.lora([(3, ((0, 1.0),))])
    batches.head([((1, 1.0),)])
    rows = [bank.entry(slot).lane.row(bank.entry(slot).position) for slot in range(2)]
    storages = [StorageWeakRef(row.untyped_storage()) for row in rows]
    del rows
    bank.clear(0)
    bank.clear(1)
    assert not any(storage.expired() for storage in storages)
    batches.rest()
    assert all(storage.expired() for storage in storages)


@pytest.mark.parametrize(
    ("starts", "counts", "kind"),
    [
        ([0, 8], [15, 1], TritonPagedBatch),
        ([0, 8], [16, 1], PagedBatch),
        ([3] * 3, [1] * 3, TritonPagedBatch),
        ([3] * 4, [1] * 4, PagedBatch),
    ],
)
def test_a_larger_step_gets_torch_attention(batches, starts, counts, kind):
    tables = [[8 * row + block for block in range(5)] for row in range(len(counts))]
    assert type(batches.attention(tables, starts, counts)) is kind


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([(15, ((0, 1.0),)), (1, ())], TritonLoraBatch),
        ([(16, ((0, 1.0),)), (1, ())], LoraBatch),
        ([(1, ((0, 1.0),))] * 4, LoraBatch),
        ([(1, ((0, 1.0), (1, 1.0)))], TritonLoraBatch),
        ([(1, ((0, 1.0), (1, 1.0), (2, 1.0)))], LoraBatch),
        ([(1, ())], type(None)),
        ([(1, ((0, 0.0),))], type(None)),
    ],
)
def test_a_larger_step_gets_torch_adapters(batches, rows, kind):
    assert type(batches.lora(rows)) is kind


class Graphs:
    """Stands for captured steps."""

    def __init__(self):
        self.ran = []
        self.forgotten = 0

    def run(self, rows):
        self.ran.append(rows)
        return torch.zeros(len(rows), 5)

    def forget_rows(self):
        self.forgotten += 1


def test_adapters_that_are_filled_uncaptured_are_filled_again(batches):
    graphs = batches._graphs = Graphs()
    batches.attention([[0]], [0], [1])
    assert graphs.forgotten == 0
    batches.lora([(1, ((0, 1.0),))])
    assert graphs.forgotten == 1


def test_nothing_is_captured_without_a_capture(batches):
    batches.capture(lambda *_: pytest.fail("captured"))
    assert batches.decode([]) is None


class Spy(TritonBatches):
    """Notes whether it was asked to capture."""

    asked = False

    def capture(self, _):
        self.asked = True

    def attention(self, *args):
        return self._larger.attention(*args)


@pytest.mark.parametrize("known", [True, False])
def test_only_a_known_decoder_is_captured(tiny_model, monkeypatch, known):
    if not known:
        monkeypatch.setattr(model_runner, "fuse_decoder", lambda *_: None)
    made = []

    def make(loaded, config, bank):
        larger = TorchBatches(bank, config.block_size, loaded.dtype, loaded.device)
        triton = triton_batches(loaded, config, bank, larger, None)
        made.append(Spy(triton._paged, triton._lora, triton._head, larger, None))
        return made[-1]

    Steps(tiny_model("llama"), CONFIG, make)
    assert made[0].asked is known


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma"])
def test_a_gpu_computes_what_the_cpu_does(tiny_model, family, cuda_graphs):
    if not available(torch.device("cuda")):
        pytest.skip("needs compute capability 8.0")
    options = CONFIG.model_dump() | {"max_batch_size": 5, "cuda_graphs": cuda_graphs}
    on_gpu = Steps(tiny_model(family), EngineConfig(**options | {"device": "cuda"}))
    on_cpu = Steps(tiny_model(family), EngineConfig(**options))
    for cases in (
        {
            "base": Case(3, tokens=6),
            "adapter": Case(6, ((1, 0.8),), tokens=9),
            "mixture": Case(2, ((0, 1.0), (2, -0.5)), tokens=5),
            "chunked": Case(40, ((2, 1.2), (1, 0.4)), tokens=8),
        },
        {
            "gate": Case(4, ((0, 1.0), (1, 1.0)), gate="layer"),
            "by site": Case(3, ((2, 1.0), (0, 0.7)), gate="site"),
            "fixed": Case(2, ((1, 1.0),), tokens=7),
        },
    ):
        want, got = on_cpu.run(cases), on_gpu.run(cases)
        for name, rows in want.items():
            torch.testing.assert_close(got[name], rows, atol=2e-2, rtol=2e-2)
    captured = on_gpu.runner._batches
    assert isinstance(captured, TritonBatches)
    assert (captured._graphs is not None) == cuda_graphs
