"""Start-time fair queueing among weighted flows, in integers.

Every flow that waits has a start: the virtual time at which its next unit of work begins. The
smallest start is served first, and serving ``cost`` moves that flow's start on by ``cost`` over its
weight. A flow that has nothing waiting saves nothing up: when it comes back, it starts at the
clock, or where its last work ends if that is later.

This is Goyal, Vin and Cheng's SFQ but for the clock, the latest virtual time at which any work
served so far would end for the heaviest flow (theirs is the start of the work in service). Costs
need not be known before the work is served. Each unit of work moves the clock on, so that no flow
that waits is passed by newcomers for ever; among equal weights none is passed at all.

With C the largest cost and w the weights, a waiting flow's start lies at most C / w after the
clock, and at most one work of the heaviest flow before it. Hence

- while flows a and b both wait with constant weights, what they are served, each divided by its
  weight, differs by at most 2 C / min(w_a, w_b);
- before a flow of weight w is served next, each other one of weight v is served at most
  2 C v / min(v, w), and among equal weights 2 C.

Work that is served out of turn moves its flow's start like any other, but not the clock: the flow
has had it in advance.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from cluster.errors import IntegrityError

_UNIT = 2**20  # virtual time that one token takes a flow of weight 1


@dataclass(slots=True, eq=False)
class Flow:
    """Something that takes turns; only its ``Turns`` changes it, but for the weight."""

    start: int = 0  # virtual time at which its next work begins
    turn: int = -1  # among equal starts the smallest goes first; -1 while it does not wait
    weight: float = 1.0  # of what it is served from now on


FlowT = TypeVar("FlowT", bound=Flow)


class Turns(Generic[FlowT]):
    """Flows that wait, in the order in which they are served. Not thread-safe."""

    def __init__(self) -> None:
        self.clock = 0  # virtual time at which newcomers start
        self._order: list[tuple[int, int, FlowT]] = []  # (start, turn, flow), ascending
        self._next_turn = 0

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[FlowT]:
        """Return the flows that wait, the first one first."""
        return (flow for _, _, flow in self._order)

    @property
    def first(self) -> FlowT | None:
        """The flow whose turn it is; it stays first until it is charged or leaves."""
        return self._order[0][2] if self._order else None

    def enter(self, flow: FlowT) -> None:
        """Add a flow that has work again."""
        self._insert(flow, max(flow.start, self.clock))

    def resume(self, flow: FlowT) -> None:
        """Add a flow back that was set aside.

        It goes next but for those at the same start, and makes nothing up.
        """
        least = self._order[0][0] if self._order else self.clock
        self._insert(flow, max(flow.start, least))

    def leave(self, flow: FlowT) -> None:
        """Remove a flow that has no work left, or is set aside.

        Raises:
            IntegrityError: it does not wait.
        """
        index = bisect.bisect_left(self._order, (flow.start, flow.turn, flow))
        if flow.turn < 0 or index == len(self._order) or self._order[index][2] is not flow:
            raise IntegrityError(
                f"a flow with turn {flow.turn} leaves, {len(self._order)} wait without it"
            )
        del self._order[index]
        flow.turn = -1

    def charge(self, flow: FlowT, cost: int) -> None:
        """Account for work of a waiting flow that is served now; it waits on for its next.

        Raises:
            ValueError: a cost below 1.
        """
        if flow is self.first:
            heaviest = max([other.weight for _, _, other in self._order])
            self.clock = max(self.clock, flow.start + _span(cost, heaviest))
        self.leave(flow)
        self._insert(flow, flow.start + _span(cost, flow.weight))

    def serve_alone(self, start: int, cost: int, weight: float) -> None:
        """Account for work that is served while no flow waits; it begins at ``start`` or the clock.

        Raises:
            ValueError: a cost below 1.
        """
        self.clock = max(self.clock, start) + _span(cost, weight)

    def check_integrity(self) -> None:
        """Check the order.

        Raises:
            IntegrityError: with both numbers.
        """
        for start, turn, flow in self._order:
            if (start, turn) != (flow.start, flow.turn):
                raise IntegrityError(
                    f"a flow is at {flow.start}, {flow.turn}; it waits at {start}, {turn}"
                )
        for before, after in itertools.pairwise(self._order):
            if before[:2] >= after[:2]:
                raise IntegrityError(f"a flow at {before[:2]} is before one at {after[:2]}")

    def _insert(self, flow: FlowT, start: int) -> None:
        if flow.turn >= 0:
            raise IntegrityError(f"a flow enters with turn {flow.turn}, expected -1")
        flow.start = start
        flow.turn = self._next_turn
        self._next_turn += 1
        bisect.insort(self._order, (start, flow.turn, flow))


def _span(cost: int, weight: float) -> int:
    """Return the virtual time that work takes a flow of a weight."""
    if cost < 1:
        raise ValueError(f"a cost is {cost}, expected at least 1")
    return max(1, round(cost * _UNIT / weight))
