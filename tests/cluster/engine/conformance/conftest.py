"""The engines that must pass these tests. A new one is one more maker in ``ENGINES``."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.config import AdapterConfig, EngineConfig
from cluster.engine.factory import build_engine
from cluster.engine.port import BuiltEngine, OnChunks, OnReturned
from tests.support.manual_clock import ManualClock
from tests.support.port_rig import PortRig

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


def torch_engine(**options: object) -> MakeEngine:
    """Return what makes the project's own engine with these options."""
    seeds = iter(range(1, 1_000_000))

    def make(
        base: Path, clock: ManualClock, on_chunks: OnChunks, on_returned: OnReturned
    ) -> BuiltEngine:
        return build_engine(
            base,
            EngineConfig(**(OPTIONS | options)),
            AdapterConfig(slots=4, base_check="shapes"),
            clock=clock,
            on_chunks=on_chunks,
            new_seed=lambda: next(seeds),
            on_returned=on_returned,
        )

    return make


ENGINES: dict[str, MakeEngine] = {
    "torch": torch_engine(),
    # Room for about two answers, so that the others are preempted, and steps of few tokens.
    "torch, int8, crowded": torch_engine(quantize="int8", kv_blocks=26, max_batch_tokens=16),
    "torch, no prefix cache, in order of arrival": torch_engine(
        prefix_cache=False, fairness="fifo"
    ),
}


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def unstarted(kind: str, tiny_model: Callable[..., Path], tmp_path: Path) -> Iterator[PortRig]:
    """An engine that takes requests and has not begun; stopped and checked at the end."""
    base = tiny_model("llama", eos_token_id=EOS)

    def make(*, clock: ManualClock, on_chunks: OnChunks, on_returned: OnReturned) -> BuiltEngine:
        return ENGINES[kind](base, clock, on_chunks, on_returned)

    rig = PortRig(make, base, tmp_path)
    yield rig
    rig.finish()


@pytest.fixture
def rig(unstarted: PortRig) -> PortRig:
    """An engine that runs."""
    unstarted.engine.start()
    return unstarted
