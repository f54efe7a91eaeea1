"""One key's averages: requests on both clocks, their tokens on the slow one."""

import math
from collections.abc import Sequence

from cluster.placement.demand.baselines import Increase
from cluster.placement.demand.clocks import FAST, SLOW


class KeyRate:
    """Exponentially decayed counts; all are of one moment, which only advances."""

    __slots__ = ("_at", "fast", "finished", "generated", "prompt", "slow")

    def __init__(self, now: float) -> None:
        self._at = now
        self.fast = 0.0  # requests per second
        self.slow = 0.0  # requests per second
        self.prompt = 0.0  # tokens per second
        self.generated = 0.0  # tokens per second, of those that finished
        self.finished = 0.0  # requests per second

    def add(self, more: Increase, share: float, spread_s: float, now: float) -> None:
        """Add the newest ``share`` of an increase, spread evenly over the last seconds."""
        self.decay(now)
        slow = share * _weight(SLOW, spread_s)
        self.fast += more.arrived * share * _weight(FAST, spread_s)
        self.slow += more.arrived * slow
        self.prompt += more.prompt_tokens * slow
        self.generated += more.generated_tokens * slow
        self.finished += more.finished * slow

    def decay(self, now: float) -> None:
        """Let time go by until ``now``; an earlier one changes nothing."""
        elapsed = now - self._at
        if elapsed <= 0.0:
            return
        self._at = now
        kept = math.exp(-SLOW * elapsed)
        self.fast *= math.exp(-FAST * elapsed)
        self.slow *= kept
        self.prompt *= kept
        self.generated *= kept
        self.finished *= kept

    def merge(self, other: "KeyRate") -> None:
        """Add another key's averages of the same moment."""
        self.fast += other.fast
        self.slow += other.slow
        self.prompt += other.prompt
        self.generated += other.generated
        self.finished += other.finished

    def figures(self) -> list[float]:
        """Return the averages; ``of`` is the inverse."""
        return [self.fast, self.slow, self.prompt, self.generated, self.finished]

    @classmethod
    def of(cls, figures: Sequence[float], now: float) -> "KeyRate":
        """Return the averages that ``figures`` gave, as of ``now``.

        Raises:
            TypeError, ValueError: these are not the figures.
        """
        rate = cls(now)
        fast, slow, prompt, generated, finished = (float(figure) for figure in figures)
        rate.fast, rate.slow = fast, slow
        rate.prompt, rate.generated, rate.finished = prompt, generated, finished
        return rate


def _weight(decay: float, spread_s: float) -> float:
    """Return the rate that one event makes, spread evenly over the last seconds."""
    if spread_s * decay < 1e-9:
        return decay
    return -math.expm1(-decay * spread_s) / spread_s
