"""Numbers of copies of each adapter: proportional to load, with hysteresis.

An adapter's demand is ``share * replicas``: the copies it needs so that none carries more than
the mean load of a replica. It is compared with the copies decided last, not with those that
happen to exist, so that a lost replica does not look like a decision.
"""

import math
from collections.abc import Mapping

from cluster.domain.ids import AdapterDigest
from cluster.placement.planning.load import AdapterRate
from cluster.placement.planning.plan import AdapterInfo, CopyTarget, PlanInputs

_ROUNDING = 1e-9


def copy_targets(inputs: PlanInputs) -> tuple[CopyTarget, ...]:
    """Return the copies of every adapter that has load or a pin or had copies, sorted by alias.

    More load never gives an adapter fewer copies. A copy is added when the demand that must be
    served exceeds the present number by the tolerance, and taken away when one less would do for
    the demand that may come back, with the tolerance to spare.
    """
    rates = {rate.digest: rate for rate in inputs.load.adapters}
    targets = []
    for info in sorted(inputs.adapters, key=lambda info: (info.alias, info.digest)):
        rate = rates.get(info.digest)
        pinned = min(inputs.pins.get(info.digest, 0), len(inputs.replicas))
        previous = inputs.previous.get(info.digest, 0)
        if rate is None and not pinned and not previous:
            continue
        targets.append(_target(inputs, info, rate, pinned, previous))
    return tuple(targets)


def _target(
    inputs: PlanInputs, info: AdapterInfo, rate: AdapterRate | None, pinned: int, previous: int
) -> CopyTarget:
    replicas = len(inputs.replicas)
    per_second = rate.rate if rate else 0.0
    share = _share(per_second, inputs.load.total)
    desired, held_back = _desired_copies(inputs, info.digest, rate, min(previous, replicas))
    copies = max(desired, pinned)
    facts = _facts(rate, share)
    if pinned and copies == pinned:
        facts = f"pinned to {pinned}; {facts}"
    if held_back:
        facts += "; changed recently, so no copy is taken away yet"
    noun = "copy" if copies == 1 else "copies"
    change = f"copies {previous} -> {copies}" if copies != previous else f"{copies} {noun}"
    return CopyTarget(
        digest=info.digest,
        alias=info.alias,
        copies=copies,
        previous=previous,
        pinned=pinned,
        rate=per_second,
        share=share,
        reason=f"{change}: {facts}",
    )


def _desired_copies(
    inputs: PlanInputs, digest: AdapterDigest, rate: AdapterRate | None, present: int
) -> tuple[int, bool]:
    """Return the copies by load alone, and whether the cooldown kept any beyond them."""
    policy = inputs.policy.placement
    replicas = len(inputs.replicas)
    most = replicas if policy.max_copies is None else min(replicas, policy.max_copies)
    least = raised = lowered = 0
    if rate is not None:
        least = min(policy.min_copies, most)
        rising = _share(rate.rate, inputs.load.total) * replicas
        falling = _share(rate.falling, inputs.load.falling) * replicas
        raised = math.ceil(rising - policy.tolerance - _ROUNDING)
        lowered = math.ceil(falling + policy.tolerance - _ROUNDING)
    desired = min(max(present, raised), max(lowered, raised))
    desired = min(max(desired, least), most)
    if desired < present and digest in inputs.cooling:
        return min(present, most), True
    return desired, False


def _share(part: float, total: float) -> float:
    return min(1.0, part / total) if total > 0 else 0.0


def _facts(rate: AdapterRate | None, share: float) -> str:
    if rate is None:
        return "no load; stays where it is while there is room"
    facts = f"{rate.rate:.2g} req/s is {share:.0%} of load"
    if len(rate.tenants) == 1:
        return f"{facts}; tenant {rate.tenants[0][0]}"
    whole = max(rate.rate, 1e-12)
    leading = ", ".join(f"{tenant} {part / whole:.0%}" for tenant, part in rate.tenants[:3])
    return f"{facts}; tenants {leading}"


def copies_by_digest(targets: tuple[CopyTarget, ...]) -> Mapping[AdapterDigest, int]:
    """Return the ``previous`` of the next plan; adapters without copies are forgotten."""
    return {target.digest: target.copies for target in targets if target.copies}
