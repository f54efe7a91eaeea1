"""Decides the number of replicas."""

from dataclasses import replace

from cluster.placement.demand.forecast import Forecast
from cluster.placement.scaling.inputs import ReplicaShape, ScaleDecision, ScaleInputs
from cluster.placement.scaling.schedule import bounds_at
from cluster.placement.scaling.wish_age import WishAge
from cluster.placement.scaling.wishes import CountWish, Needs, needs_of

__all__ = ["CountScaler", "ReplicaShape", "ScaleDecision", "ScaleInputs"]

LATE = 2.0
"""Times a start's usual time after which it is late."""


class CountScaler:
    """Remembers how long more or fewer replicas are wanted; one owner, fed once a tick.

    The count is its own from the first look on, when it is what Serve runs. Where Serve runs
    more, replicas are to be drained until it does not.
    """

    def __init__(self, forecast: Forecast | None = None) -> None:
        """Show the work to ``forecast`` at every look, also while it is not asked for any."""
        self._forecast = forecast or Forecast()
        self._count: int | None = None
        self._more = WishAge()
        self._fewer = WishAge()
        self._missing = WishAge()
        self._quiet = WishAge()
        self._awaited = WishAge()  # a first ready replica, however many starts fail meanwhile
        self._arrived: int | None = None  # requests at the last look

    def decide(self, inputs: ScaleInputs, now: float) -> ScaleDecision:
        """Return the count to have; ``now`` in monotonic seconds."""
        policy = inputs.policy.replicas
        if self._count is None or policy.mode == "observe":
            self._count = inputs.target
        quiet_s = self._quiet_for(inputs, self._count, now)
        if policy.mode == "off":
            low, _ = bounds_at(policy, inputs.wall)
            return self._become(inputs, low, "scaling is off, and min holds")
        decision = self._decide(inputs, self._count, quiet_s, now)
        if policy.mode == "observe":
            reason = f"observed only: {decision.reason}"
            return ScaleDecision(inputs.target, reason, decision.wishes)
        return decision

    def _decide(
        self, inputs: ScaleInputs, count: int, quiet_s: float | None, now: float
    ) -> ScaleDecision:
        policy = inputs.policy.replicas
        needs = self._needs(inputs, now)
        low, high = bounds_at(policy, inputs.wall)
        patience_s = policy.zero_after if low == 0 else None
        if patience_s is not None and quiet_s is not None and (not count or quiet_s >= patience_s):
            return self._become(inputs, 0, f"no request for {quiet_s:.0f} s")
        first = low == count == 0
        reason = "a request came" if first else _floor_reason(inputs, low)
        floor = CountWish(min(max(low, inputs.least, 1), high), reason)
        if needs is None:
            reason = floor.reason if count < floor.count else "no replica has reported"
            return self._become(inputs, min(max(count, floor.count), high), reason)
        missed = needs.missed()
        if not missed:
            self._missing.reset()
        elif self._missing.wait(now) < policy.up.stable:
            missed = ()
        wishes = {  # a tie goes to the first
            "queue": needs.queue(missed),
            "load": needs.load(max(count, 1)),
            **({"forecast": needs.forecast()} if policy.forecast != "off" else {}),
            "memory": needs.memory(max(count, 1)),
            "floor": floor,
        }
        chosen = self._choose(inputs, needs, wishes, count, high, now)
        return replace(chosen, wishes={name: wish.count for name, wish in wishes.items()})

    def _needs(self, inputs: ScaleInputs, now: float) -> Needs | None:
        """Return what is asked for, and expected; None before a replica has reported."""
        if inputs.shape is None:
            return None
        needs = needs_of(inputs, inputs.shape)
        forecast, rule = self._forecast, inputs.policy.replicas.forecast
        wall, ahead_s = inputs.wall.timestamp(), inputs.model.start_s
        forecast.observe(inputs.demand.fast, needs.work.fast, now, wall, ahead_s)
        if rule == "off":
            return needs
        return replace(needs, expected=forecast.expect(rule, ahead_s))

    def _choose(
        self,
        inputs: ScaleInputs,
        needs: Needs,
        wishes: dict[str, CountWish],
        count: int,
        high: int,
        now: float,
    ) -> ScaleDecision:
        policy, floor = inputs.policy.replicas, wishes["floor"]
        if count < floor.count:
            if count == 0:  # the first replicas are for what waits, not for what may come
                first = min(max(wishes["load"].count, floor.count), high)
                return self._become(inputs, first, floor.reason)
            return self._become(inputs, floor.count, floor.reason)
        if count > high:
            return self._become(inputs, high, f"at most {high} are allowed")
        wish = max(wishes.values(), key=lambda each: each.count)
        wanted = min(wish.count, high)
        if wanted <= count:
            self._more.reset()
            return self._fewer_replicas(inputs, needs, wishes, count, now)
        self._fewer.reset()
        most = count + policy.up.step
        if wishes["queue"].count > count:
            granted = min(wanted, most)
            return self._become(inputs, granted, wishes["queue"].reason)
        if inputs.starting_for_s is not None and (
            inputs.starting_for_s > LATE * inputs.model.start_s
        ):
            self._more.reset()
            late = f"a start takes {inputs.starting_for_s:.0f} s already"
            return self._become(inputs, count, f"{wish.reason} asks for {wanted}, but {late}")
        least, waited = self._more.least(wanted, now)
        if waited < policy.up.stable:
            left = policy.up.stable - waited
            return self._become(inputs, count, f"{wish.reason} asks for {wanted}, in {left:.0f} s")
        granted = min(least, most)
        return self._become(inputs, granted, wish.reason)

    def _fewer_replicas(
        self,
        inputs: ScaleInputs,
        needs: Needs,
        wishes: dict[str, CountWish],
        count: int,
        now: float,
    ) -> ScaleDecision:
        policy, least = inputs.policy.replicas, wishes["floor"].count
        needed = count
        while needed > max(least, count - policy.down.step) and needs.enough(needed - 1, count):
            needed -= 1
        if wishes["queue"].count >= count:
            needed = count
        if needed == count:
            self._fewer.reset()
            return self._become(inputs, count, max(wishes.values(), key=lambda w: w.count).reason)
        most, waited = self._fewer.most(needed, now)
        words = f"work of {needs.work.down:.2f} replicas needs {most}"
        if waited < policy.down.stable:
            left = policy.down.stable - waited
            return self._become(inputs, count, f"{words}, in {left:.0f} s")
        if inputs.target > count:
            return self._become(inputs, count, f"{words}, but replicas are drained already")
        return self._become(inputs, most, words)

    def _quiet_for(self, inputs: ScaleInputs, count: int, now: float) -> float | None:
        """Return for how many seconds nothing has come or was in flight; None while it does.

        A start is let finish: those who asked for it come back when it can serve them, so silence
        counts from when a replica is ready, or from when the first start of those that fail one
        after another is late.
        """
        arrived, before = inputs.demand.arrived, self._arrived
        self._arrived = arrived
        starts = count > 0 and inputs.ready == 0
        if starts:
            starts = self._awaited.wait(now) <= LATE * inputs.model.start_s
        else:
            self._awaited.reset()
        if starts or inputs.in_flight or (before is not None and arrived > before):
            self._quiet.reset()
            return None
        return self._quiet.wait(now)

    def _become(self, inputs: ScaleInputs, count: int, reason: str) -> ScaleDecision:
        """Take ``count`` as the one to have, and put both counts before the reason."""
        before = self._count
        if before is not None and count < before and not inputs.complete:
            count, reason = before, f"{reason}, but not every replica has reported"
        if count != before:
            self._count = count
            for patience in (self._more, self._fewer):
                patience.reset()
            reason = f"{before} -> {count}: {reason}"
        else:
            reason = f"{count}: {reason}"
        return ScaleDecision(count, reason)


def _floor_reason(inputs: ScaleInputs, low: int) -> str:
    if inputs.least > low:
        return f"pins and tiers need {inputs.least} replicas"
    return f"at least {max(low, 1)} must run"
