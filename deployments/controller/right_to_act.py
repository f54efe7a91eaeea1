"""The controller's right to act: its epoch, the lease, and what an earlier life has left."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from cluster.clock import Clock
from cluster.placement.control.pauses import DEMAND_S
from cluster.placement.control.reconciler import Reconciler
from deployments.controller.controller_state import ControllerState
from deployments.controller.cost_priors import CostPriors

log = structlog.get_logger(__name__)


class RightToAct:
    """Keeps one reconciler in charge as far as Redis permits; one owner.

    A new controller reads what the one before has left first, and acts only then: until Redis has
    answered it listens.
    """

    def __init__(
        self, reconciler: Reconciler, state: ControllerState, priors: CostPriors, clock: Clock
    ) -> None:
        self._reconciler = reconciler
        self._state = state
        self._priors = priors
        self._clock = clock
        self._restored = False
        self._demand_at = clock.monotonic()
        self._led = False
        self.cost_error: str | None = None
        """Says why a profile of costs is not used; None: nothing is wrong."""

    async def renew(self) -> None:
        """Renew the lease and write the state; without the right, try to get it.

        Find the costs to begin with as soon as it is known what replicas run on. No tick does it:
        it may wait for Redis.
        """
        right = self._reconciler.leadership
        if right.leads:
            await self._write()
        elif await self._restore():
            epoch = await self._state.take_epoch(right.highest, last=right.epoch)
            if epoch is not None:
                self._reconciler.lead(epoch, self._clock.monotonic())
        if right.leads != self._led:
            self._led = right.leads
            log.info("controller.standing", epoch=right.epoch, standing=right.words)
        await self._find_costs()

    async def _write(self) -> None:
        right, now = self._reconciler.leadership, self._clock.monotonic()
        due = now - self._demand_at >= DEMAND_S
        demand = self._reconciler.demand_state(now) if due else None
        forecast = self._reconciler.forecast.changes() if due else {}
        found = await self._state.write(right.epoch, demand, forecast)
        if found is not None:
            right.learn(found)
            self._demand_at = now if due else self._demand_at
        if due and found == right.epoch:
            self._reconciler.forecast.written(forecast)
            costs = self._reconciler.costs
            await self._priors.keep_learned(costs.device, costs.to_state())

    async def _find_costs(self) -> None:
        costs = self._reconciler.costs
        device = costs.device
        found = await self._priors.find_new(device, self._clock.monotonic())
        if found is not None:
            self.cost_error = found.error
            costs.begin(device, found.costs, found.source, found.learned)

    async def _restore(self) -> bool:
        """Take in what an earlier life has left, once; returns whether that is done."""
        if self._restored:
            return True
        earlier = await self._state.load()
        if earlier is None:
            return False
        self._restored = True
        self._reconciler.restore_history(earlier.history)
        with _broken_state_logged():
            if earlier.demand is not None:
                self._reconciler.restore_demand(earlier.demand, self._clock.monotonic())
        with _broken_state_logged():
            self._reconciler.forecast.restore(earlier.forecast, self._clock.wall())
        return True


@contextmanager
def _broken_state_logged() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        log.error("controller.state_refused", error=repr(error))
