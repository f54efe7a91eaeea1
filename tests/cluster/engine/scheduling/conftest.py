"""A scheduler on integers, driven by the sizes of requests."""

import math
from collections.abc import Callable, Iterable

import pytest

from cluster.config import EngineConfig
from cluster.domain.ids import RequestId, TenantId
from cluster.domain.request import GenerationRequest, SamplingParams
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.scheduler import Scheduler
from cluster.engine.sequence import EngineSequence
from cluster.engine.steps import StepPlan
from tests.support.decisions import TENANT, decision_over
from tests.support.manual_clock import ManualClock

STOP = 0


class Rig:
    """A scheduler with its pool and clock, and requests by their sizes."""

    def __init__(self, **config: object) -> None:
        defaults = {
            "max_model_len": 64,
            "block_size": 4,
            "kv_blocks": 32,
            "max_batch_size": 4,
            "max_batch_tokens": 16,
        }
        self.config = EngineConfig.model_validate({**defaults, **config})
        self.pool = BlockPool(self.config.usual_kv_blocks, self.config.block_size)
        self.clock = ManualClock(1000.0)
        self.scheduler = Scheduler(self.config, self.pool, self.clock)

    def add(
        self,
        name: str,
        prompt: int | Iterable[int],
        *,
        max_tokens: int = 8,
        resumed: tuple[int, ...] = (),
        deadline_at: float | None = None,
        namespace: str = "ns",
        whole_prefill: bool = False,
        tenant: str = TENANT,
        adapters: str = "",
        weight: float = 1.0,
        itl_s: float = math.inf,
    ) -> EngineSequence:
        """Add a request; an integer stands for a prompt of that length like no other's.

        ``adapters`` names one by each letter.
        """
        if isinstance(prompt, int):
            prompt = [1000 + ord(name[0])] * prompt
        request = GenerationRequest(
            request_id=RequestId(name),
            tenant=TenantId(tenant),
            prompt_token_ids=tuple(prompt),
            sampling=SamplingParams(max_tokens=max_tokens),
            decision=decision_over(adapters),
            resumed_token_ids=resumed,
            deadline_at=deadline_at,
            weight=weight,
            itl_s=itl_s,
        )
        sequence = EngineSequence.create(
            request,
            namespace=namespace,
            adapters=(),
            stop_token_ids=frozenset({STOP}),
            max_model_len=self.scheduler.max_model_len,
            whole_prefill=whole_prefill,
        )
        self.scheduler.add_sequence(sequence)
        return sequence

    def commit(self, plan: StepPlan, token: int = 7) -> list[EngineSequence]:
        sampled = {i.sequence.request_id: token for i in plan.scheduled if i.samples}
        ended = self.scheduler.commit(plan, sampled)
        self.scheduler.check_integrity()
        return ended

    def plan(self) -> StepPlan:
        plan = self.scheduler.schedule()
        assert plan is not None
        self.scheduler.check_integrity()
        return plan

    def step(self, token: int = 7) -> dict[str, tuple[int, int, bool]]:
        """Schedule and commit; (start, count, samples) by request."""
        plan = self.plan()
        self.commit(plan, token)
        return self.shares(plan)

    @staticmethod
    def shares(plan: StepPlan) -> dict[str, tuple[int, int, bool]]:
        return {i.sequence.request_id: (i.start, i.count, i.samples) for i in plan.scheduled}


@pytest.fixture
def make_rig() -> Callable[..., Rig]:
    """``make_rig(**engine_config)`` builds a scheduler over a small pool; token 0 stops."""
    return Rig
