"""The engines that must pass these tests. A new one is one more maker in ``ENGINES``."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.config import AdapterConfig, EngineConfig
from cluster.engine.factory import build_engine
from cluster.engine.hosted.environment import find_python
from cluster.engine.port import BuiltEngine, OnChunks, OnReturned
from cluster.errors import ConfigError
from tests.support.manual_clock import ManualClock
from tests.support.port_rig import SLOTS, PortRig

EOS = 1
OPTIONS = {
    "block_size": 4,
    "kv_blocks": 128,
    "max_model_len": 96,
    "max_batch_size": 8,
    "max_queued": 8,
}
MakeEngine = Callable[[Path, ManualClock, OnChunks, OnReturned], BuiltEngine]
"""Makes an engine that is not running yet, of a base model's folder."""


def engine(**options: object) -> MakeEngine:
    """Return what makes an engine with these options."""
    seeds = iter(range(1, 1_000_000))

    def make(
        base: Path, clock: ManualClock, on_chunks: OnChunks, on_returned: OnReturned
    ) -> BuiltEngine:
        return build_engine(
            base,
            EngineConfig(**(OPTIONS | options)),
            AdapterConfig(slots=SLOTS, base_check="shapes"),
            clock=clock,
            on_chunks=on_chunks,
            new_seed=lambda: next(seeds),
            on_returned=on_returned,
        )

    return make


VLLM = "vllm"
ENGINES: dict[str, MakeEngine] = {
    "torch": engine(),
    # Room for about two answers, so that the others are preempted, and steps of few tokens.
    "torch, int8, crowded": engine(quantize="int8", kv_blocks=26, max_batch_tokens=16),
    "torch, no prefix cache, in order of arrival": engine(prefix_cache=False, fairness="fifo"),
    VLLM: engine(kind="vllm", block_size=32, kv_blocks=32),
}
ONE_MIXTURE = "a sequence keeps the adapters that it begins with"
VLLM_DIFFERENCES = {
    "test_a_prompt_may_change_adapters_where_it_invokes_them": ONE_MIXTURE,
    "test_a_request_is_rerouted_at_a_token": ONE_MIXTURE,
    "test_a_reroute_that_comes_late_begins_as_soon_as_it_can": ONE_MIXTURE,
    "test_a_second_reroute_waits_for_the_first": ONE_MIXTURE,
    "test_earlier_adapters_are_released_once_nothing_needs_them": ONE_MIXTURE,
    "test_a_resumed_request_gets_the_tokens_that_it_lacks": (
        "draws are a stream that begins anew where a sequence is resumed"
    ),
}
"""Promises that vLLM does not keep, and why; docs/decisions/0016 has them for users."""


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == VLLM:
        difference = VLLM_DIFFERENCES.get(request.function.__name__)
        if difference is not None:
            pytest.skip(f"vLLM differs: {difference}")
        try:
            find_python(EngineConfig(kind="vllm"))
        except ConfigError as error:
            pytest.skip(error.message)
    return request.param


@pytest.fixture(scope="session")
def base(tiny_model: Callable[..., Path]) -> Path:
    """A model whose heads are wide enough for every engine's kernels."""
    return tiny_model("llama", eos_token_id=EOS, head_dim=32)


def make_rig(kind: str, base: Path, folders: Path) -> PortRig:
    def make(*, clock: ManualClock, on_chunks: OnChunks, on_returned: OnReturned) -> BuiltEngine:
        return ENGINES[kind](base, clock, on_chunks, on_returned)

    return PortRig(make, base, folders)


@pytest.fixture
def unstarted(kind: str, base: Path, tmp_path: Path) -> Iterator[PortRig]:
    """An engine that takes requests and has not begun; stopped and checked at the end."""
    rig = make_rig(kind, base, tmp_path)
    yield rig
    rig.finish()


@pytest.fixture(scope="module")
def vllm_rig(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortRig]:
    """vLLM takes seconds to start, so one serves many tests."""
    rig = make_rig(VLLM, base, tmp_path_factory.mktemp("vllm"))
    rig.engine.start()
    yield rig
    rig.finish()


@pytest.fixture
def rig(kind: str, base: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[PortRig]:
    """An engine that runs. Where a module's tests count nothing that was before, they share it."""
    if kind == VLLM and getattr(request.module, "SHARES_AN_ENGINE", False):
        rig = request.getfixturevalue("vllm_rig")
        rig.lend(request.node.name)
        yield rig
        rig.take_back()
    else:
        rig = make_rig(kind, base, tmp_path)
        rig.engine.start()
        yield rig
        rig.finish()
