"""Arrow's prototypes and gate against PEFT's Arrow."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from peft.tuners.lora.arrow import ArrowLoraLinearLayer, create_arrow_model
from peft.tuners.lora.config import ArrowConfig

from cluster.adapters.catalog import AdapterCatalog
from cluster.adapters.loader import load_adapter
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AdapterConfig, RouterConfig
from cluster.domain.ids import Slot
from cluster.domain.request import SamplingParams
from cluster.engine.mixing import LAYER_MODULES, Mixing
from cluster.errors import AdapterError, ConfigError
from kernels.tolerances import assert_close
from router_service.merging.merge import read_adapter
from router_service.router_kinds import default_registry
from router_service.routers.arrow import ArrowGate, ArrowOptions, build_gate, prototype
from router_service.routers.base import Need, RouterFailed
from router_service.routers.kind import RouterContext
from tests.support.engines import make_request
from tests.support.peft_oracle import ALL_MODULES, make_adapters

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

NAMES = ("one", "two", "three", "four")
TOKENS = [5, 17, 3, 80, 41, 2, 2, 60]
PROMPTS = {"short": TOKENS, "long": [(7 * i * i + 3) % 97 for i in range(29)]}


def _options(**changes: Any) -> ArrowOptions:
    return ArrowOptions.model_validate({"adapters": NAMES, "seed": 7} | changes)


@pytest.mark.parametrize("seed", [0, 42])
@pytest.mark.parametrize("rank", [1, 4, 9])
def test_a_prototype_is_pefts(seed: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    a, b = torch.randn(rank, 20, generator=generator), torch.randn(12, rank, generator=generator)
    config = ArrowConfig(rng_seed=seed)
    config.task_adapter_names = []
    layer = ArrowLoraLinearLayer(20, config)
    assert torch.equal(prototype(a, b, seed=seed), layer.top_right_singular_vec_from_BA(a, b))
    v = prototype(a, b, iterations=2000, seed=seed)
    top = torch.linalg.svd(b @ a).Vh[0]
    assert abs(float(v @ top)) == pytest.approx(1, abs=1e-5)
    assert torch.equal(v, prototype(a, b, iterations=2000, seed=seed))


def _gate(k: int, top_k: int, tau: float, prototypes: torch.Tensor) -> ArrowGate:
    names = tuple(f"a{i}" for i in range(k))
    options = ArrowOptions(adapters=names, top_k=top_k, temperature=tau)
    return ArrowGate({(0, 0): prototypes}, k, 1, prototypes.shape[1], options)


@given(st.integers(2, 6), st.integers(1, 7), st.floats(0.1, 5), st.integers(0, 1000))
def test_the_sign_of_a_prototype_and_the_neighbours_of_a_row_do_not_count(
    k: int, top_k: int, tau: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(k, 8, generator=generator)
    x = torch.randn(5, 8, generator=generator)
    signs = torch.randint(0, 2, (k, 1), generator=generator) * 2.0 - 1
    c = _gate(k, top_k, tau, prototypes).weights(0, 0, x)
    flipped = _gate(k, top_k, tau, prototypes * signs).weights(0, 0, x)
    torch.testing.assert_close(c, flipped)
    alone = torch.cat([_gate(k, top_k, tau, prototypes).weights(0, 0, row[None]) for row in x])
    torch.testing.assert_close(c, alone)
    torch.testing.assert_close(c.sum(dim=1), torch.ones(5))
    assert ((c != 0).sum(dim=1) <= min(k, top_k)).all()


def test_the_worked_example() -> None:
    gate = _gate(3, 2, 0.5, torch.eye(3))
    c = gate.weights(0, 0, torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, -3.0]]))
    first = torch.tensor([1 / 0.5, 2 / 0.5]).softmax(dim=0)
    torch.testing.assert_close(c[0], torch.tensor([first[0], first[1], 0.0]))
    assert c[1].argmax() == 2
    assert torch.equal(gate.weights(0, 3, torch.ones(2, 5)), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="a site is needed"):
        gate.weights(0, None, torch.ones(1, 3))


@pytest.fixture(scope="module")
def folder(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four adapters of one rank over all linears, one over fewer."""
    root = tmp_path_factory.mktemp("adapters")
    shared = {"r": 4, "lora_alpha": 8, "target_modules": list(ALL_MODULES)}
    options: dict[str, dict[str, Any]] = dict.fromkeys(NAMES, shared)
    options["two"] = shared | {"lora_alpha": 2}
    options["narrow"] = shared | {"target_modules": ["q_proj"]}
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_model("llama"))
    make_adapters(base, options, root)
    shutil.copytree(root / "one", root / "copy")
    return root


class _Weighed(torch.nn.Module):
    """A linear under the gate: y + sum_a c_a scale_a B_a A_a x."""

    def __init__(self, linear: torch.nn.Module, path: str, gate: ArrowGate, adapters: Any) -> None:
        super().__init__()
        self.linear = linear
        self._tensors = [adapter.tensors[path] for adapter in adapters]
        self._gate = gate
        self._at = int(path.split(".")[2]), LAYER_MODULES.index(path.rpartition(".")[2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        c = self._gate.weights(*self._at, x.flatten(0, -2)).unflatten(0, x.shape[:-1])
        for index, (a, b, scaling) in enumerate(self._tensors):
            y = y + c[..., index : index + 1] * scaling * (x @ a.T @ b.T)
        return y


@pytest.mark.parametrize(("top_k", "tau"), [(1, 1.0), (2, 0.5), (3, 1.0), (4, 3.0)])
def test_a_model_under_the_gate_is_pefts_arrow_model(
    tiny_model: Callable[..., Path], folder: Path, top_k: int, tau: float
) -> None:
    def base() -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(
            tiny_model("llama"), dtype=torch.float32
        ).eval()

    config = ArrowConfig(top_k=top_k, router_temperature=tau, rng_seed=7)
    oracle = create_arrow_model(base(), [str(folder / n) for n in NAMES], config).eval()
    model = base()
    adapters = [read_adapter(folder / name) for name in NAMES]
    gate = build_gate(
        adapters, _options(top_k=top_k, temperature=tau), num_layers=2, hidden_size=64
    )
    for path in adapters[0].tensors:
        parent, _, name = path.rpartition(".")
        weighed = _Weighed(model.get_submodule(path), path, gate, adapters)
        setattr(model.get_submodule(parent), name, weighed)
    with torch.inference_mode():
        tokens = torch.tensor([TOKENS])
        torch.testing.assert_close(
            model(tokens).logits, oracle(tokens).logits, rtol=1e-4, atol=1e-4
        )


def _context(folder: Path, **changes: Any) -> RouterContext:
    catalog = AdapterCatalog.scan(folder)
    fields: dict[str, Any] = {
        "aliases": frozenset(catalog.entries),
        "max_mixture": 8,
        "adapters": catalog.entries,
        "provides": frozenset({Need.TEXT, Need.SITE_INPUTS}),
    }
    return RouterContext(**(fields | changes))


def _build(context: RouterContext, **options: Any) -> Any:
    config = RouterConfig(name="a", kind="arrow", options={"adapters": list(NAMES)} | options)
    return default_registry().build(config, context)


def test_the_router_names_all_its_adapters_or_none(folder: Path) -> None:
    router = _build(_context(folder))
    routed = router.route("any", frozenset({*NAMES, "strange"}))
    assert routed.weights == tuple((name, 1.0) for name in NAMES)
    with pytest.raises(RouterFailed, match="three, four"):
        router.route("any", frozenset({"one", "two"}))


def test_the_engine_under_the_gate_is_pefts_arrow_model(
    running_engine: Any, tiny_model: Callable[..., Path], folder: Path
) -> None:
    """Through the registry's part, in a batch with the base and a static mixture."""
    context = _context(folder, base_layers=2, base_width=64)
    config = RouterConfig(
        name="a", kind="arrow", options={"adapters": list(NAMES), "top_k": 2, "seed": 7}
    )
    ((version, part),) = default_registry().build_parts([config], context).items()
    assert version == default_registry().build(config, context).version
    assert part.digests == tuple(context.adapters[name].key.digest for name in NAMES)
    engine = running_engine("llama", max_batch_tokens=16)
    shapes = BaseShapes("base", engine.built.module_shapes)
    for slot, name in enumerate(NAMES):
        engine.load(slot, load_adapter(folder / name, shapes, AdapterConfig()).tensors)
    engine.mixing.gates[version] = part.gate
    sampling = SamplingParams(max_tokens=6, temperature=0.0, logprobs=97)
    mixture = tuple((Slot(slot), 1.0) for slot in range(len(NAMES)))
    for name, prompt in PROMPTS.items():
        engine.submit(make_request(name, prompt, sampling), mixture, name, Mixing(gate=version))
    engine.submit(make_request("static", TOKENS, sampling), mixture)
    engine.submit(make_request("base", TOKENS, sampling))
    engine.wait(*PROMPTS, "static", "base")
    arrow = ArrowConfig(top_k=2, router_temperature=1.0, rng_seed=7)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        tiny_model("llama"), dtype=torch.float32
    )
    oracle = create_arrow_model(base, [str(folder / n) for n in NAMES], arrow).eval()
    for name, prompt in PROMPTS.items():
        answer = engine.answers[name]
        with torch.inference_mode():
            logits = oracle(torch.tensor([prompt + answer.tokens])).logits[0]
        expected = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
        found = torch.empty_like(expected)
        for row, logprobs in enumerate(answer.logprobs):
            ids, values = zip(*logprobs.top, strict=True)
            found[row, list(ids)] = torch.tensor(values)
        assert_close("lora", found, expected)
        assert answer.tokens != engine.answers["static"].tokens or prompt != TOKENS


@pytest.mark.parametrize(
    ("context", "options", "message"),
    [
        ({"provides": frozenset({Need.TEXT})}, {}, r"routers\.a: needs site_inputs"),
        ({"max_mixture": 3}, {}, r"routers\.a: max_fan_out"),
        ({}, {"adapters": ["one", "narrow"]}, "do not adapt the same linears"),
        ({}, {"adapters": ["one", "zzz"]}, "'zzz' is not an adapter here"),
        ({}, {"adapters": ["one", "one"]}, "named twice"),
        ({}, {"adapters": ["one", "copy"]}, "'one' and 'copy' are the same adapter"),
        ({}, {"adapters": ["one"]}, r"routers\.a\.options\.adapters"),
        ({}, {"top_k": 0}, r"routers\.a\.options\.top_k"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_when_the_application_is_built(
    folder: Path, context: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _build(_context(folder, **context), **options)


def test_a_gate_over_different_linears_is_refused(folder: Path) -> None:
    adapters = [read_adapter(folder / name) for name in ("one", "narrow")]
    with pytest.raises(AdapterError, match="the same linears"):
        build_gate(adapters, _options(), num_layers=2, hidden_size=64)
