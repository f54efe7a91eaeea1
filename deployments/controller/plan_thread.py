"""Plans in a thread, so that the control loop waits for no plan that takes long."""

import asyncio
from collections.abc import Callable

from cluster.placement.planning.plan import Plan, PlanInputs

PLAN_S = 0.5
"""The tick that asks for a plan waits for it so long; later ones only look whether it is there."""


class PlanThread:
    """Makes one plan at a time in another thread; one owner, on one event loop.

    Args:
        plan: makes a plan; pure.
    """

    def __init__(self, plan: Callable[[PlanInputs], Plan]) -> None:
        self._plan = plan
        self._under_way: asyncio.Future[Plan] | None = None

    async def ask(self, inputs: PlanInputs | None) -> Plan | None:
        """Return a plan that is ready: of these inputs, or of those of an earlier tick.

        Inputs are passed over while an earlier plan is under way. None as inputs voids that one.

        Raises:
            Exception: what the planner raised.
        """
        if inputs is None:
            self._under_way = None
            return None
        if self._under_way is None:
            self._under_way = asyncio.ensure_future(asyncio.to_thread(self._plan, inputs))
            await asyncio.wait({self._under_way}, timeout=PLAN_S)
        if not self._under_way.done():
            return None
        made, self._under_way = self._under_way, None
        return made.result()
