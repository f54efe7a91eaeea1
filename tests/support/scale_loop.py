"""Shows the scaler one look after another: fronts' totals in, replica counts out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.cost.model import CostModel, StepCost
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.demand.demand import Demand, DemandKey
from cluster.placement.demand.rates import DemandRates
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy
from cluster.placement.scaling.count import CountScaler, ReplicaShape, ScaleDecision, ScaleInputs

SHAPE = ReplicaShape(slots=8, adapter_bytes=80_000_000, max_batch_size=16)
MONDAY = datetime(2026, 11, 30, tzinfo=UTC)
WIDE = ClusterPolicy(replicas=ReplicasPolicy(min=1, max=12))
STEPS = st.builds(
    StepCost,
    per_step=st.floats(0.001, 0.1),
    per_prefill_token=st.floats(0.0, 0.002),
    per_decode_row=st.floats(0.0, 0.01),
    per_context_block=st.floats(0.0, 0.001),
    per_adapter_byte=st.floats(0.0, 1e-9),
)
MODELS = st.builds(lambda step: CostModel(step=step), STEPS)


def key(tenant: str = "acme", *adapters: str) -> DemandKey:
    return DemandKey(TenantId(tenant), tuple(AdapterDigest(one) for one in sorted(adapters)))


def ready_adapter(digest: AdapterDigest) -> ResidentAdapter:
    return ResidentAdapter(digest, str(digest), AdapterState.READY, 1, 8, 0, False, 0.0)


@dataclass
class ScaleLoop:
    """One front, one controller; every replica that is asked for is there at the next look."""

    policy: ClusterPolicy
    model: CostModel = field(default_factory=CostModel)
    shape: ReplicaShape | None = SHAPE
    sizes: Mapping[AdapterDigest, int] = field(default_factory=dict)
    count: int = 1
    look_s: float = 1.0
    now: float = 0.0
    prompt_tokens: int = 100
    generated_tokens: int = 50

    def __post_init__(self) -> None:
        self.counters = DemandCounters()
        self.rates = DemandRates()
        self.scaler = CountScaler()
        self.sequence = 0
        self.owed: dict[DemandKey, float] = {}
        self.last: ScaleDecision | None = None

    def inputs(self, demand: Demand, **changes: object) -> ScaleInputs:
        made = ScaleInputs(
            policy=self.policy,
            demand=demand,
            model=self.model,
            shape=self.shape,
            adapter_bytes=self.sizes,
            target=self.count,
            ready=self.count,
            starting_for_s=None,
            backlog_s=0.0,
            in_flight=0,
            predicted_ttft={},
            cold=None,
            least=0,
            complete=True,
            wall=MONDAY + timedelta(seconds=self.now),
        )
        return replace(made, **changes)

    def arrive(self, which: DemandKey, requests: int = 1) -> None:
        for _ in range(requests):
            self.counters.arrive(which, self.prompt_tokens)
            self.counters.finish(which, self.generated_tokens)

    def flow(self, which: DemandKey, rate: float) -> None:
        """Let requests come at exactly this rate until the next look."""
        owed = self.owed.get(which, 0.0) + rate * self.look_s
        self.arrive(which, int(owed + 1e-9))
        self.owed[which] = owed - int(owed + 1e-9)

    def look(self, **changes: object) -> int:
        """Send a report, decide, and take the count over."""
        self.now += self.look_s
        self.sequence += 1
        report = self.counters.changed_since(self.sequence - 1, self.now)
        self.counters.compose(self.sequence, self.now)
        self.rates.observe("front", report, self.now)
        decision = self.scaler.decide(self.inputs(self.rates.demand(self.now), **changes), self.now)
        self.count, self.last = decision.count, decision
        return decision.count
