"""Every step of the real scheduler, with the time that the cost model says."""

from collections.abc import Callable
from dataclasses import replace

from cluster.config import EngineConfig
from cluster.domain.ids import RequestId, Slot, TenantId
from cluster.domain.work import StepTotals
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.scheduler import Scheduler
from cluster.engine.sequence import EngineSequence
from cluster.engine.step_totals import AdapterSize, step_totals
from cluster.engine.steps import StepPlan
from cluster.placement.cost.model import StepCost
from cluster.simulation.replica.engine_port import (
    A_TOKEN,
    STOP_TOKEN,
    EngineWork,
    OnNews,
    SequenceNews,
    add_totals,
)
from cluster.simulation.replica.step_pace import StepPace
from cluster.simulation.virtual.virtual_process import VirtualProcess

_STOPS = frozenset({STOP_TOKEN})


class ExactEngine:
    """Drives a ``Scheduler``: what it plans takes time, and its tokens are made up.

    Args:
        pace: says how much longer each step takes than ``cost`` says.
        on_news: receives first tokens and ends once a step has committed.
    """

    def __init__(
        self,
        config: EngineConfig,
        cost: StepCost,
        pace: StepPace,
        adapter_size: Callable[[Slot], AdapterSize],
        process: VirtualProcess,
        on_news: OnNews,
    ) -> None:
        self._pool = BlockPool(config.usual_kv_blocks, config.block_size, process.clock)
        self._scheduler = Scheduler(config, self._pool, process.clock)
        self._cost = cost
        self._pace = pace
        self._adapter_size = adapter_size
        self._process = process
        self._on_news = on_news
        self._live: dict[RequestId, EngineSequence] = {}
        self._ends: dict[RequestId, int] = {}  # tokens of each completion
        self._began: dict[RequestId, float] = {}  # virtual seconds, of each first step
        self._cancelled: list[RequestId] = []
        self._busy = False
        self.totals = StepTotals()
        self.generated_tokens = 0

    @property
    def running(self) -> int:
        return self._scheduler.running

    @property
    def waiting(self) -> int:
        return self._scheduler.waiting

    @property
    def kv_blocks_free(self) -> int:
        return self._pool.num_free

    @property
    def prefix_age_s(self) -> float:
        return self._pool.prefix_age_s

    @property
    def max_model_len(self) -> int:
        return self._scheduler.max_model_len

    def backlog(self) -> dict[TenantId, int]:
        return self._scheduler.backlog()

    def submit(self, work: EngineWork) -> None:
        sequence = EngineSequence.create(
            work.request,
            namespace=work.namespace,
            adapters=tuple((slot, 1.0) for slot in work.slots),
            stop_token_ids=_STOPS,
            max_model_len=self._scheduler.max_model_len,
        )
        self._scheduler.add_sequence(sequence)
        self._live[sequence.request_id] = sequence
        self._ends[sequence.request_id] = work.generated_tokens
        if not self._busy:
            self._busy = True
            self._process.after(0.0, self._begin_step)

    def withdraw(self, request_id: RequestId) -> bool:
        if not self._scheduler.withdraw(request_id):
            return False
        self._forget(request_id)
        return True

    def cancel(self, request_id: RequestId) -> None:
        self._cancelled.append(request_id)
        if not self._busy:
            self._busy = True
            self._process.after(0.0, self._begin_step)

    def generated(self, request_id: RequestId) -> int:
        sequence = self._live.get(request_id)
        return 0 if sequence is None else sequence.num_generated

    def check_integrity(self) -> None:
        """Check the scheduler's books; raises IntegrityError."""
        self._scheduler.check_integrity()

    def _begin_step(self) -> None:
        ended = [self._scheduler.cancel(request_id) for request_id in self._cancelled]
        self._cancelled.clear()
        news = [self._news(item) for item in (*ended, *self._scheduler.expire()) if item]
        plan = self._scheduler.schedule()
        self._busy = plan is not None
        if plan is not None:
            now = self._process.loop.now
            for item in plan.scheduled:
                self._began.setdefault(item.sequence.request_id, now)
            totals = step_totals(plan, self._pool.block_size, self._adapter_size)
            seconds = self._cost.seconds(totals) * self._pace.begin()
            self._process.after(seconds, self._end_step, plan, replace(totals, seconds=seconds))
        else:
            self._pace.rest()
        if news:
            self._on_news(news)

    def _end_step(self, plan: StepPlan, totals: StepTotals) -> None:
        self.totals = add_totals(self.totals, totals)
        self._scheduler.observe_step(totals)
        ends = self._ends
        sampled: dict[RequestId, int] = {}
        first: list[EngineSequence] = []
        for item in plan.scheduled:
            sequence = item.sequence
            if item.samples and not sequence.is_finished:
                generated = sequence.num_generated + 1
                request_id = sequence.request_id
                sampled[request_id] = STOP_TOKEN if generated >= ends[request_id] else A_TOKEN
                if item.start < sequence.prompt_len or item.count > 1:
                    first.append(sequence)
        self.generated_tokens += len(sampled)
        ended = self._scheduler.commit(plan, sampled)
        news = [
            SequenceNews(
                s.request_id, s.num_generated, s.num_cached, began_at=self._began[s.request_id]
            )
            for s in first
            if not s.is_finished
        ]
        news += map(self._news, ended)
        if news:
            self._on_news(news)
        self._begin_step()

    def _news(self, ended: EngineSequence) -> SequenceNews:
        began_at = self._began.get(ended.request_id)
        self._forget(ended.request_id)
        return SequenceNews(
            ended.request_id, ended.num_generated, ended.num_cached, ended.finish_reason, began_at
        )

    def _forget(self, request_id: RequestId) -> None:
        del self._live[request_id], self._ends[request_id]
        self._began.pop(request_id, None)
