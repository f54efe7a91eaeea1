"""Decode steps as one native program: the same to the last bit as operation by operation."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from cluster.config import EngineConfig
from cluster.domain.decision import SiteWeights
from cluster.domain.ids import RequestId
from cluster.engine.execution.model_runner import ModelRunner
from cluster.engine.execution.step_mixing import MixedRows, StepMixing
from cluster.engine.mixing import Mixing
from cluster.engine.model.model_loader import load_model
from kernels.attention.attention_batch import PagedBatch
from kernels.linear.panels import float_panels_available
from kernels.lora.bank import AdapterBank
from kernels.lora.lora_batch import LoraBatch, Mixture
from tests.conftest import TINY_FAMILIES
from tests.support.engine_steps import TokenGate

CONFIG = EngineConfig(device="cpu", block_size=4, kv_blocks=64, max_model_len=64)
SLOTS = 5

pytestmark = pytest.mark.skipif(
    not float_panels_available(), reason="native products need AVX-512 and GNU OpenMP"
)


def make_runner(folder: Path, **config: object) -> ModelRunner:
    options = EngineConfig(**{**CONFIG.model_dump(), **config})
    loaded = load_model(folder, options)
    bank = AdapterBank(loaded.sites, SLOTS, 8)
    generator = torch.Generator().manual_seed(3)
    for slot in range(SLOTS):
        rank = slot + 1
        bank.write(
            slot,
            {
                path: (
                    torch.randn(rank, site.in_features, generator=generator) * 0.3,
                    torch.randn(width, rank, generator=generator) * 0.3,
                    0.5,
                )
                for site in loaded.sites
                for path, width in site.out_slices
            },
        )
    return ModelRunner(loaded, options, bank)


def fill(runner: ModelRunner, contexts: Sequence[int]) -> list[list[int]]:
    """Prefills rows of these lengths; their block tables."""
    tables = []
    first = 0
    for row, context in enumerate(contexts):
        blocks = context // 4 + 2
        tables.append(list(range(first, first + blocks)))
        first += blocks
        batch = PagedBatch.build([tables[-1]], [0], [context], block_size=4)
        tokens = [(7 * position + row) % 97 for position in range(context)]
        runner._forward(tokens, list(range(context)), [context - 1], batch, None)
    return tables


def step(
    runner: ModelRunner,
    tables: list[list[int]],
    contexts: Sequence[int],
    mixtures: Sequence[Mixture],
    first_token: int = 1,
    mixings: Sequence[Mixing | None] = (),
) -> torch.Tensor:
    rows = len(contexts)
    batch = PagedBatch.build(tables, contexts, [1] * rows, block_size=4)
    adapters = LoraBatch.build([(1, mixture) for mixture in mixtures], runner._bank)
    runner._step_mixing = None
    if any(mixings):
        fused = [
            MixedRows(RequestId(f"r{row}"), mixing, row, 1, 0) for row, mixing in enumerate(mixings)
        ]
        assert adapters is not None
        parts = runner._mixing
        runner._step_mixing = StepMixing(adapters, fused, parts.gates, {}, runner._sites)
    tokens = [(5 * row + first_token) % 97 for row in range(rows)]
    logits = runner._forward(tokens, list(contexts), list(range(rows)), batch, adapters, adapters)
    assert logits is not None
    return logits.clone()


def both_ways(
    runner: ModelRunner,
    contexts: Sequence[int],
    mixtures: Sequence[Mixture],
    mixings: Sequence[Mixing | None] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the logits of one step by the program, and by its operations alone."""
    assert runner._fused is not None
    tables = fill(runner, contexts)
    program = runner._fused._program
    assert program is not None
    program._programs.clear()
    together = step(runner, tables, contexts, mixtures, mixings=mixings)
    assert len(program._programs) == 1
    runner._fused._program = None
    try:
        alone = step(runner, tables, contexts, mixtures, mixings=mixings)
    finally:
        runner._fused._program = program
    return together, alone


MIXTURES: dict[str, tuple[Mixture, ...]] = {
    "base": ((), (), (), (), (), ()),
    "one adapter": (((0, 1.0),), (), ((0, 0.5),), (), (), ()),
    "each its own": (((0, 1.0),), ((1, 1.0),), ((2, 1.0),), ((3, 1.0),), ((4, 1.0),), ()),
    "mixtures": (
        ((0, 0.5), (1, 0.5)),
        ((1, -0.25), (2, 1.0), (4, 0.1)),
        (),
        ((3, 1.0),),
        ((0, 0.3), (1, 0.3), (2, 0.3), (3, 0.3)),
        ((4, 2.0),),
    ),
}


@pytest.mark.parametrize("case", MIXTURES)
@pytest.mark.parametrize("family", [f for f in TINY_FAMILIES if f != "gemma"])
def test_a_program_is_its_operations(tiny_model: Callable[..., Path], family: str, case: str):
    runner = make_runner(tiny_model(family))
    together, alone = both_ways(runner, (3, 9, 1, 17, 4, 8), MIXTURES[case])
    assert torch.equal(together, alone)


def test_the_head_is_adapted_where_an_adapter_has_it(tiny_model: Callable[..., Path]):
    """In a program of its own, and rows without it keep their bits."""
    runner = make_runner(tiny_model("llama"))
    head = runner._loaded.head_site
    site = runner._loaded.sites[head]
    runner._bank.write(
        0,
        {
            site.name: (
                torch.full((2, site.in_features), 0.1),
                torch.full((site.out_features, 2), 0.2),
                1.0,
            )
        },
    )
    contexts, mixtures = (3, 9, 1), (((0, 1.0),), (), ((0, -0.5),))
    tables = fill(runner, contexts)
    program = runner._fused._program
    program._programs.clear()
    plain = step(runner, tables, contexts, ((), (), ()))
    adapted = step(runner, tables, contexts, mixtures)
    batch = PagedBatch.build(tables, contexts, [1] * 3, block_size=4)
    lora = LoraBatch.build([(1, mixture) for mixture in mixtures], runner._bank)
    tokens = [(5 * row + 1) % 97 for row in range(3)]
    without = runner._forward(tokens, list(contexts), [0, 1, 2], batch, lora)
    assert sorted(key[1:3] for key in program._programs) == [
        (False, False),
        (True, False),
        (True, True),
    ]
    assert torch.equal(without, plain)  # nothing but the head is touched
    assert torch.equal(adapted[1], plain[1])
    first, third = adapted[0] - plain[0], adapted[2] - plain[2]
    assert bool((first.std() < 1e-5) & (first.abs().min() > 1e-3))  # all columns of B are equal
    assert bool(third.abs().min() > 1e-3)


@pytest.mark.parametrize(("gate", "masks"), [("", True), ("layers", False), ("layers", True)])
def test_weights_of_gates_and_masks(tiny_model: Callable[..., Path], gate: str, masks: bool):
    """Gates that weigh each token by layer, masks of modules, and plain mixtures in one step."""
    runner = make_runner(tiny_model("llama"))
    generator = torch.Generator().manual_seed(5)
    layers, width = runner._loaded.num_layers, runner._hidden_size
    runner._mixing.gates["layers"] = TokenGate(torch.randn(layers, 2, width, generator=generator))
    chosen = SiteWeights(
        tuple(runner._sites.paths),
        (tuple(float(place % 3 != 1) for place in range(len(runner._sites.paths))),),
    )
    mixings = (
        Mixing(gate=gate) if gate else None,
        None,
        Mixing(site_weights=chosen) if masks else None,
        None,
        Mixing(gate=gate) if gate else None,
        None,
    )
    mixtures = (
        ((0, 1.0), (1, 0.5)),
        ((1, -0.25), (2, 1.0), (4, 0.1)),
        ((3, 1.0),),
        (),
        ((4, 1.0), (0, 1.0)),
        ((4, 2.0),),
    )
    contexts = (3, 9, 1, 17, 4, 8)
    together, alone = both_ways(runner, contexts, mixtures, mixings)
    assert torch.equal(together, alone)
    assert not torch.equal(together, both_ways(runner, contexts, mixtures)[0])


def test_a_gate_that_answers_by_site_is_not_taken(tiny_model: Callable[..., Path]):
    runner = make_runner(tiny_model("llama"))
    assert runner._fused is not None
    program = runner._fused._program
    assert program is not None
    weight = torch.zeros(runner._loaded.num_layers, 2, runner._hidden_size)
    runner._mixing.gates["sites"] = TokenGate(weight, resolution="site")
    tables = fill(runner, (3,))
    program._programs.clear()
    step(runner, tables, (3,), (((0, 1.0), (1, 1.0)),), mixings=(Mixing(gate="sites"),))
    assert not program._programs


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("window", [None, 3])
def test_windows_and_int8(tiny_model: Callable[..., Path], quantize: str, window: int | None):
    runner = make_runner(tiny_model("mistral", sliding_window=window), quantize=quantize)
    assert runner._fused is not None
    if runner._fused._program is None:
        assert quantize == "int8"
        pytest.skip("the int8 product is not native on this CPU")
    together, alone = both_ways(runner, (3, 9, 1, 17, 4, 8), MIXTURES["mixtures"])
    assert torch.equal(together, alone)


def test_a_row_does_not_depend_on_the_batch(tiny_model: Callable[..., Path]):
    """More rows than the buffers had, then fewer again; each row as it is alone."""
    runner = make_runner(tiny_model("llama"), kv_blocks=256)
    contexts = [1 + 3 * row % 13 for row in range(40)]
    mixtures = [((row % SLOTS, 1.0),) if row % 3 else () for row in range(40)]
    tables = fill(runner, contexts)
    small = step(runner, tables[:2], contexts[:2], mixtures[:2])
    large = step(runner, tables, contexts, mixtures)
    assert torch.equal(large[:2], small)
    for row in range(0, 40, 7):
        one = slice(row, row + 1)
        alone = step(runner, tables[one], contexts[one], mixtures[one], 5 * row + 1)
        assert torch.equal(alone, large[one])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_thread_counts_do_not_change_a_bit(tiny_model: Callable[..., Path], threads: int):
    runner = make_runner(tiny_model("llama"))
    contexts = (3, 9, 1, 17, 4, 8)
    tables = fill(runner, contexts)
    want = step(runner, tables, contexts, MIXTURES["mixtures"])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = step(runner, tables, contexts, MIXTURES["mixtures"])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got, want)


def test_a_step_with_a_prompt_is_not_taken(tiny_model: Callable[..., Path]):
    runner = make_runner(tiny_model("llama"))
    assert runner._fused is not None
    program = runner._fused._program
    assert program is not None
    tables = fill(runner, (3, 9))
    program._programs.clear()
    batch = PagedBatch.build(tables, [3, 7], [1, 2], block_size=4)
    runner._forward([1, 2, 3], [3, 7, 8], [0, 1, 2], batch, None)
    assert not program._programs
    step(runner, tables, (3, 9), ((), ()))
    assert program._programs


def test_another_activation_has_no_program(tiny_model: Callable[..., Path]):
    runner = make_runner(tiny_model("gemma"))
    assert runner._fused is not None
    assert runner._fused._program is None
