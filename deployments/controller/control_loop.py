"""The loop around the reconciler: looks, plans in a thread, sends, hands on, writes down."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from cluster.clock import Clock
from cluster.errors import ReplicaLost
from cluster.placement.control.actions import Actions, ReplicaPlan
from cluster.placement.control.drain import ServeReplicas
from cluster.placement.control.fronts import LATELY_S
from cluster.placement.control.pauses import ANSWER_S, SHORTEST_PAUSE_S
from cluster.placement.control.reconciler import Reconciler
from cluster.placement.control.serve_counts import ServeCounts
from cluster.placement.cost.model import CostModel
from cluster.placement.exchange import FrontId, FrontOrders, FrontReport
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.planning.planner import plan
from cluster.tasks import Tasks
from deployments.controller.controller_state import ControllerState
from deployments.controller.cost_priors import CostPriors
from deployments.controller.plan_thread import PlanThread
from deployments.controller.policy_follower import PolicyFollower
from deployments.controller.replica_watch import ReplicaWatch
from deployments.controller.right_to_act import RightToAct
from deployments.controller.serve_target import ServeTarget
from deployments.replica_calls import ReplicaCalls

log = structlog.get_logger(__name__)

RENEW_S = 1.0
PLACEMENT_TIMEOUT_S = 60.0


class ControlLoop:
    """Runs one reconciler; one owner, on one event loop.

    Args:
        replicas: reaches them.
        serve: reads and sets Serve's target.
        state: in Redis. Without it a controller that has an epoch goes on; a new one acts not.
        priors: find the costs to begin with, once it is known what replicas run on.
        policy: follows the operator's; a change of it is acted on at once.
        catalog: returns what can be placed now.
        interval_s: from the start of a tick to the next.
    """

    def __init__(
        self,
        *,
        replicas: ReplicaCalls,
        serve: ServeTarget,
        state: ControllerState,
        priors: CostPriors,
        policy: PolicyFollower,
        catalog: Callable[[], Iterable[AdapterInfo]],
        clock: Clock,
        interval_s: float,
    ) -> None:
        self._replicas = replicas
        self._serve = serve
        self._state = state
        self._policy = policy
        self._ruling = 0  # version of the policy in the fronts' orders
        self._knows_policy = False  # the fronts' orders are by one that is known to be in force
        self._followed: dict[FrontId, tuple[int, float]] = {}  # version, and when it was said
        self._catalog = catalog
        self._clock = clock
        self._interval_s = interval_s
        self._reconciler = Reconciler(0, CostModel())
        self._right = RightToAct(self._reconciler, state, priors, clock)
        self._watch = ReplicaWatch(replicas, self._reconciler, clock, self._wake)
        self._plans = PlanThread(plan)
        self._sending = Tasks()
        self._woken = asyncio.Event()
        policy.on_change(self._wake)
        self.counts: ServeCounts | None = None
        """Serve's counts, as last read."""
        self._ticks = 0
        self._tick_error: str | None = None

    async def begin(self) -> None:
        """Take an epoch, and what the controller before has left, if Redis answers.

        If it does not, ``keep_right`` does so as soon as it does; until then nothing is changed.
        """
        await self._right.renew()

    async def run(self) -> None:
        """Run ticks until cancelled; one comes at once if a replica died or requests are held."""
        while True:
            began = self._clock.monotonic()
            self._woken.clear()
            try:
                await self._tick()
                self._tick_error = None
            except Exception as error:  # one bad tick must not end the loop
                if repr(error) != self._tick_error:  # one line for a failure that lasts
                    log.error("controller.tick_failed", exc_info=error)
                self._tick_error = repr(error)
            await asyncio.sleep(min(SHORTEST_PAUSE_S, self._interval_s))
            left = self._interval_s - (self._clock.monotonic() - began)
            if left > 0.0:
                try:
                    await asyncio.wait_for(self._woken.wait(), left)
                except TimeoutError:
                    continue

    async def keep_right(self) -> None:
        """Renew the right to act and what is kept in Redis until cancelled."""
        while True:
            try:
                await self._right.renew()
            except Exception as error:  # a failure of one pass must not end the loop
                log.error("controller.right_not_renewed", exc_info=error)
            await asyncio.sleep(RENEW_S)

    async def close(self) -> None:
        """End the calls under way."""
        self._watch.close()
        await self._sending.cancel()

    # From the fronts

    def exchange(self, report: FrontReport) -> FrontOrders:
        """Take in a front's report; the answer is what it is to go by."""
        orders = self._reconciler.hear_front(report, self._clock.monotonic())
        if report.dead or report.held:
            self._wake()
        self._followed[report.front] = (report.policy_version, self._clock.monotonic())
        return replace(orders, policy_version=self._ruling, knows_policy=self._knows_policy)

    async def start_first(self) -> None:
        """Have a first replica started where none is to run, unless scaling only observes."""
        if self._policy.policy.replicas.mode == "on" and self._reconciler.leadership.leads:
            await self._serve.start_first()

    def status(self) -> dict[str, Any]:
        """Return what the reconciler knows, and how the loop fares, for people."""
        return {
            **self._reconciler.status(self._clock.monotonic()),
            "policy_fronts": {front: version for front, (version, _) in self._followed.items()},
            "ticks": self._ticks,
            "tick_error": self._tick_error,
            "state_error": self._state.error,
            "cost_profile_error": self._right.cost_error,
        }

    # Inside

    def _wake(self) -> None:
        self._woken.set()

    async def _tick(self) -> None:
        _, (self.counts, replicas) = await asyncio.gather(
            self._watch.look(ANSWER_S), self._read_serve()
        )
        policy = self._policy.policy
        self._ruling, self._knows_policy = self._policy.version, self._policy.known
        inputs = self._reconciler.begin_tick(
            self._catalog(),
            policy,
            self.counts,
            self._clock.monotonic(),
            self._wall(),
            replicas=replicas,
        )
        planned = await self._plans.ask(inputs)
        actions = self._reconciler.finish_tick(planned, self._clock.monotonic(), self._wall())
        self._ticks += 1
        self._forget_fronts()
        self._state.add_lines(actions.changes)
        self._send(actions)
        if self._reconciler.leadership.leads and policy.replicas.mode != "observe":
            await self._serve.set_count(actions.replica_count)
        else:
            self._serve.release()

    def _forget_fronts(self) -> None:
        now = self._clock.monotonic()
        self._followed = {
            front: followed
            for front, followed in self._followed.items()
            if now - followed[1] <= LATELY_S
        }

    async def _read_serve(self) -> tuple[ServeCounts, ServeReplicas | None]:
        counts = await self._serve.read()
        try:
            return counts, await self._serve.read_replicas()
        except ReplicaLost:  # Serve has just fallen silent, and has not listed them before
            return counts, None

    def _wall(self) -> datetime:
        return datetime.fromtimestamp(self._clock.wall(), UTC)

    def _send(self, actions: Actions) -> None:
        # Replicas go by the version, so a plan may overtake one that is still being applied.
        for told in actions.replica_plans:
            self._sending.start(self._tell(told))

    async def _tell(self, told: ReplicaPlan) -> None:
        try:
            ack = await asyncio.wait_for(
                self._replicas.call(
                    told.replica_id,
                    "apply_placement",
                    told.version,
                    told.desired,
                    told.pinned,
                    told.kept,
                ),
                PLACEMENT_TIMEOUT_S,
            )
        except Exception as error:  # Ray raises many kinds; the plan is sent again
            log.warning(
                "controller.placement_unanswered", replica=told.replica_id, error=repr(error)
            )
            return
        self._reconciler.acknowledge(
            told.replica_id,
            ack.version,
            loaded=ack.loaded,
            failed={digest: f"{code}: {message}" for digest, code, message in ack.failed},
            evicted=ack.evicted,
            policy=self._policy.policy,
            now=self._clock.monotonic(),
        )
