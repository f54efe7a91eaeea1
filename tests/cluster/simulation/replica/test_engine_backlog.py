"""Both engines report the same backlog."""

from collections.abc import Callable

from cluster.config import EngineConfig
from cluster.domain.ids import RequestId, TenantId
from cluster.domain.request import GenerationRequest, SamplingParams
from cluster.placement.cost.model import StepCost
from cluster.simulation.replica.engine_exact import ExactEngine
from cluster.simulation.replica.engine_fast import FastEngine
from cluster.simulation.replica.engine_port import EngineWork, SimulatedEngine
from cluster.simulation.replica.step_pace import SharedCores, StepPace
from cluster.simulation.virtual.virtual_loop import VirtualLoop
from cluster.simulation.virtual.virtual_process import VirtualProcess
from tests.support.decisions import decision_over

BLOCK = 16
ENGINES: tuple[Callable[..., SimulatedEngine], ...] = (ExactEngine, FastEngine)


def work(name: str, tenant: str, number: int, length: int) -> EngineWork:
    """Return a request whose prompt has no start in common with another number's."""
    request = GenerationRequest(
        request_id=RequestId(name),
        tenant=TenantId(tenant),
        prompt_token_ids=(number,) * length,
        sampling=SamplingParams(max_tokens=100),
        decision=decision_over(),
    )
    prefix = tuple(1000 * number + block for block in range(length // BLOCK))
    return EngineWork(request, "ns", (), prefix, 100)


def test_what_is_kept_of_a_row_that_yielded_is_no_backlog() -> None:
    config = EngineConfig(max_batch_size=2, block_size=BLOCK, kv_blocks=64, max_batch_tokens=128)
    found = []
    for made in ENGINES:
        loop = VirtualLoop()  # type: ignore[abstract] # as the simulator's
        process = VirtualProcess(loop, "r0", 0.0)
        pace = StepPace(1.0, SharedCores(), process)
        engine = made(config, StepCost(per_step=0.1), pace, lambda _: (0, 0), process, list)
        for number in (1, 2):
            engine.submit(work(f"f{number}", "flood", number, 40))
        loop.run(until=0.5)
        assert engine.backlog() == {}
        engine.submit(work("q", "quiet", 3, 20))
        loop.run(until=1.0)
        assert (engine.running, engine.waiting) == (2, 1)
        found.append(engine.backlog())
    assert found == [{"flood": 40 - 2 * BLOCK}] * 2
