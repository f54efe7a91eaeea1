"""Chooses the number of replicas: a pure function of load, policy, time and its own state."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cluster.placement.policy import ReplicasPolicy

Direction = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class AutoscalerState:
    """A wish that must last before it is granted."""

    direction: Direction | None = None
    since: float = 0.0  # wall clock, seconds: first moment of the unbroken wish
    modest: int = 0  # the wish nearest to the present count since then

    def to_state(self) -> dict[str, Any]:
        """Return itself, JSON-able; ``AutoscalerState(**state)`` is the inverse."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class AutoscaleDecision:
    """The count to have from now on."""

    count: int
    state: AutoscalerState
    reason: str


def autoscale(
    policy: ReplicasPolicy, *, load: float, current: int, state: AutoscalerState, now: float
) -> AutoscaleDecision:
    """Decide the replica count.

    ``load`` is the smoothed number of running and queued requests in the cluster, ``current`` the
    count asked for so far (not how many have started), ``now`` in seconds. A change is made only
    after the load has asked for it without a break for the policy's delay, and then only as far
    as the most modest wish of that time: a load that swings faster than the delay changes
    nothing. To shrink, the load must fit the smaller count with the tolerance to spare.
    """
    if not policy.min <= current <= policy.max:
        count = min(max(current, policy.min), policy.max)
        reason = f"{current} -> {count}: policy bounds are {policy.min} to {policy.max}"
        return AutoscaleDecision(count, AutoscalerState(), reason)
    wish, direction = _wish(policy, load, current)
    target = policy.target_running_per_replica
    facts = f"{load:.1f} requests at {target:g} per replica"
    if direction is None:
        return AutoscaleDecision(current, AutoscalerState(), f"{current}: {facts}")
    if state.direction == direction:
        modest = min(state.modest, wish) if direction == "up" else max(state.modest, wish)
        pending = AutoscalerState(direction, min(state.since, now), modest)
    else:
        pending = AutoscalerState(direction, now, wish)
    delay = policy.upscale_delay_s if direction == "up" else policy.downscale_delay_s
    waited = now - pending.since
    if waited >= delay:
        reason = f"{current} -> {pending.modest}: {facts} for {waited:.0f} s"
        return AutoscaleDecision(pending.modest, AutoscalerState(), reason)
    reason = f"{current}: {facts} asks for {wish}, in {delay - waited:.0f} s"
    return AutoscaleDecision(current, pending, reason)


def _wish(policy: ReplicasPolicy, load: float, current: int) -> tuple[int, Direction | None]:
    target = policy.target_running_per_replica
    if load > current * target * (1.0 + policy.tolerance):
        wish = min(max(math.ceil(load / target), policy.min), policy.max)
        return wish, "up" if wish > current else None
    wish = min(max(math.ceil(load / (target * (1.0 - policy.tolerance))), policy.min), policy.max)
    return wish, "down" if wish < current else None
