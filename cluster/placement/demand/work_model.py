"""Turns demand into work: seconds of replicas that it needs each second.

Work follows from arrivals, not from what runs, so another replica does not change it. It is
linear in requests: to divide a tenant or a set changes nothing in the sum.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.domain.ids import AdapterDigest
from cluster.placement.cost.model import CostModel, StepCost
from cluster.placement.demand.clocks import FAST, SLOW, down_rate, up_rate
from cluster.placement.demand.demand import Demand, DemandRate

ACCIDENT = 3.0
"""Standard deviations of a number of requests that are put down to accident: the count is
looked at thousands of times a day, and one deviation is exceeded every few minutes."""


@dataclass(frozen=True, slots=True)
class Work:
    """Replicas' seconds per second; 1.5 keeps one and a half replicas busy."""

    up: float = 0.0  # what must be done
    down: float = 0.0  # what must be gone before a replica may go


@dataclass(frozen=True, slots=True)
class WorkModel:
    """The seconds of one replica that requests take."""

    step: StepCost
    batch: int  # sequences that run together where the replica is busy
    block_size: int
    adapter_bytes: Mapping[AdapterDigest, int]

    @property
    def crowding(self) -> float:
        """Return the seconds that requests lose by each second of work next to another one.

        Prompts wait for each other. Answers slow each other down: at x tokens a second about
        ``per_step * x`` sequences run, and each adds its row to the steps of the others.
        """
        step = self.step
        token = step.per_step / self.batch + step.per_decode_row
        both = 2.0 * step.per_step * step.per_decode_row
        return max(1.0, both / (token * token)) if token > 0.0 else 1.0

    def request_seconds(self, rate: DemandRate) -> float:
        """Return the seconds that one request of this key takes, its mean lengths assumed."""
        return self.step.per_prefill_token * rate.prompt_tokens + self.answer_seconds(rate)

    def answer_seconds(self, rate: DemandRate) -> float:
        """Return the seconds of it that the answer takes, once the prompt is computed."""
        step, shared = self.step, 1.0 / self.batch
        nbytes = sum([self.adapter_bytes.get(digest, 0) for digest in rate.key.adapters])
        token = (
            step.per_step * shared
            + step.per_decode_row
            + step.per_context_block * _context_blocks(rate, self.block_size)
            + step.per_adapter_byte * nbytes * shared
        )
        return rate.generated_tokens * token

    def mean_answer_seconds(self, demand: Demand) -> float:
        """Return the seconds that the answer of one request takes, of what came of late."""
        fast = demand.fast
        answers = sum(rate.fast * self.answer_seconds(rate) for rate in demand.rates)
        return answers / fast if fast > 0.0 else 0.0

    def work(self, demand: Demand) -> Work:
        """Return the work of all demand.

        A rise must be more than what the number of requests behind it makes by accident, and
        before a replica goes, the slow clock is believed only so far. A few costly requests
        are few, however many cheap ones there are.
        """
        fast = slow = squares = slow_squares = 0.0
        for rate in demand.rates:
            seconds = self.request_seconds(rate)
            fast += rate.fast * seconds
            slow += rate.slow * seconds
            squares += rate.fast * seconds * seconds
            slow_squares += rate.slow * seconds * seconds
        events = fast * fast / squares / FAST if squares > 0.0 else 0.0
        doubt = ACCIDENT * math.sqrt(SLOW * slow_squares)
        return Work(
            up_rate(fast, slow, events=events, deviations=ACCIDENT), down_rate(fast, slow + doubt)
        )


def work_model(
    model: CostModel,
    demand: Demand,
    *,
    itl_s: float,
    max_batch_size: int,
    block_size: int,
    adapter_bytes: Mapping[AdapterDigest, int],
) -> WorkModel:
    """Return the costs at the batch that replicas work with when they are busy.

    ``itl_s`` is the most that a token may take, by the strictest tier.
    """
    batch = operating_batch(
        model.step,
        itl_s=itl_s,
        most=max_batch_size,
        context_blocks=_mean_context_blocks(demand.rates, block_size),
    )
    return WorkModel(model.step, batch, block_size, adapter_bytes)


def operating_batch(step: StepCost, *, itl_s: float, most: int, context_blocks: float) -> int:
    """Return the largest batch whose steps take at most ``itl_s``, from 1 to ``most``."""
    row = step.per_decode_row + step.per_context_block * context_blocks
    if row <= 0.0:
        return max(1, most)
    fits = (itl_s - step.per_step) / row
    return max(1, min(most, math.floor(fits + 1e-9))) if fits < most else max(1, most)


def _context_blocks(rate: DemandRate, block_size: int) -> float:
    """Return the mean KV blocks that a request's tokens read."""
    return (rate.prompt_tokens + rate.generated_tokens / 2.0) / block_size


def _mean_context_blocks(rates: Iterable[DemandRate], block_size: int) -> float:
    total = weighted = 0.0
    for rate in rates:
        total += rate.slow
        weighted += rate.slow * _context_blocks(rate, block_size)
    return weighted / total if total > 0.0 else 0.0
