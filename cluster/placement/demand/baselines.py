"""Keeps how far each front's totals have been counted."""

from collections import OrderedDict
from typing import NamedTuple

from cluster.placement.demand.demand import DemandKey, DemandTotals

KEYS_OF_A_FRONT = 16_384
"""Twice what a front counts: what is dropped here, its front dropped long ago."""
KEYS_OF_ALL = 20 * KEYS_OF_A_FRONT
FORGET_S = 1200.0  # five half-lives of the slow clock: what it counted hardly matters then


class Increase(NamedTuple):
    """The part of a report that is new."""

    arrived: int
    prompt_tokens: int
    generated_tokens: int
    finished: int
    cached_tokens: int
    spread_s: float  # it arrived within the last seconds, evenly


class FrontBaseline:
    """The highest totals of one front's keys so far."""

    __slots__ = ("_heard_at", "_totals")

    def __init__(self) -> None:
        self._totals: OrderedDict[DemandKey, DemandTotals] = OrderedDict()  # by last change
        self._heard_at: float | None = None

    def __len__(self) -> int:
        return len(self._totals)

    @property
    def heard_at(self) -> float | None:
        """Return when the front was last heard, in monotonic seconds."""
        return self._heard_at

    def hear(self, now: float) -> None:
        """Note that the front was heard."""
        self._heard_at = now if self._heard_at is None else max(now, self._heard_at)

    def raise_to(self, total: DemandTotals, now: float) -> Increase | None:
        """Return by how much ``total`` exceeds all before it; None if by nothing."""
        known = self._totals.get(total.key)
        if known is not None and total.life < known.life:
            return None
        if known is None or total.life > known.life:
            spread = total.age_s
            known = DemandTotals(total.key, life=total.life)
        else:
            spread = 0.0 if self._heard_at is None else max(0.0, now - self._heard_at)
        highest = total if _exceeds(total, known) else _highest(total, known)
        self._totals[total.key] = highest
        self._totals.move_to_end(total.key)
        if len(self._totals) > KEYS_OF_A_FRONT:
            self._totals.popitem(last=False)
        more = Increase(
            highest.arrived - known.arrived,
            highest.prompt_tokens - known.prompt_tokens,
            highest.generated_tokens - known.generated_tokens,
            highest.finished - known.finished,
            highest.cached_tokens - known.cached_tokens,
            spread,
        )
        return more if more.arrived or more.finished or more.generated_tokens else None


def _exceeds(total: DemandTotals, known: DemandTotals) -> bool:
    """Report whether a total of the same life is nowhere lower."""
    return (
        total.arrived >= known.arrived
        and total.prompt_tokens >= known.prompt_tokens
        and total.generated_tokens >= known.generated_tokens
        and total.finished >= known.finished
        and total.cached_tokens >= known.cached_tokens
    )


def _highest(total: DemandTotals, known: DemandTotals) -> DemandTotals:
    return DemandTotals(
        total.key,
        max(known.arrived, total.arrived),
        max(known.prompt_tokens, total.prompt_tokens),
        max(known.generated_tokens, total.generated_tokens),
        max(known.finished, total.finished),
        life=total.life,
        cached_tokens=max(known.cached_tokens, total.cached_tokens),
    )


class FrontBaselines:
    """The baselines of all fronts, each one life of a front, for a bounded number of keys."""

    def __init__(self) -> None:
        self._fronts: OrderedDict[str, FrontBaseline] = (
            OrderedDict()
        )  # the one heard last at the end

    def open(self, front: str) -> FrontBaseline:
        """Return a front's baseline; an unknown one's is empty."""
        baseline = self._fronts.setdefault(front, FrontBaseline())
        self._fronts.move_to_end(front)
        return baseline

    def forget_silent(self, now: float) -> None:
        """Drop fronts that are long gone, and the longest silent ones if there are too many."""
        keys = sum(len(baseline) for baseline in self._fronts.values())
        while len(self._fronts) > 1:
            front, baseline = next(iter(self._fronts.items()))
            silent_s = now - (baseline.heard_at if baseline.heard_at is not None else now)
            if silent_s <= FORGET_S and keys <= KEYS_OF_ALL:
                return
            keys -= len(baseline)
            del self._fronts[front]
