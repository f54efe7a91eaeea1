"""Which adapters a step applies to which tokens, worked out once per step for all its sites."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from kernels.lora.bank import AdapterBank
from kernels.lora.lane import Lane, Stack

Mixture = Sequence[tuple[int, float]]
"""(slot, weight) terms of one request's tokens."""

_GROUPED_COST = 40
_RUN_COST = 24
_GATHERED_COST = 48
"""Costs per site, in padded rows of the grouped form, about 1 us each on a CPU core: of using the
grouped form at all, of an adapter's own matmuls over consecutive tokens, and over scattered."""

_LONG_RUN = 32
"""Tokens from which a run is worth its own matmuls without gathering."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive tokens with one adapter and one weight."""

    start: int
    stop: int
    weight: float


@dataclass(frozen=True, slots=True)
class DenseSegment:
    """One adapter over many tokens: two matmuls per site."""

    stack: Stack  # of one row
    start: int  # tokens [start, stop) where ``tokens`` is None
    stop: int
    tokens: torch.Tensor | None  # [m] int64, when they are not consecutive
    weights: torch.Tensor  # [m, 1]


@dataclass(frozen=True, slots=True)
class GroupedSegment:
    """Many adapters over few tokens each: batched matmuls over a stack, groups padded to m.

    Every (token, adapter) pair has a place in the [n, m] grid of stack rows. Places without a pair
    are computed and never read.
    """

    stack: Stack  # n rows
    grid: torch.Tensor  # [n * m] int64: token at each place, 0 where there is none
    weights: torch.Tensor  # [n, m, 1], 0 where there is no pair
    places: torch.Tensor  # [pairs] int64: place of each pair, pairs ordered by token
    offsets: torch.Tensor | None  # [tokens] int64: first pair of each token; None: one pair each
    start: int  # tokens [start, stop) where ``tokens`` is None
    stop: int
    tokens: torch.Tensor | None  # [tokens] int64, when they are not consecutive


@dataclass(frozen=True, slots=True)
class LoraBatch:
    """The LoRA work of one step, the same for all sites.

    Weights enter a step only through the segments' ``weights``, which multiply the shrunk
    activations: a router that decides per layer or per token replaces those tensors, nothing else.

    A batch may be kept for as many steps as its rows and the adapters in its slots stay the same
    and ``valid`` holds: building another batch may reorganise what it reads.
    """

    tokens: int
    dense: tuple[DenseSegment, ...]
    grouped: tuple[GroupedSegment, ...]

    @property
    def valid(self) -> bool:
        """Whether everything the batch reads is still in place."""
        return all(segment.stack.valid for segment in self.grouped) and all(
            segment.stack.valid for segment in self.dense
        )

    @staticmethod
    def build(rows: Sequence[tuple[int, Mixture]], bank: AdapterBank) -> "LoraBatch | None":
        """Group tokens by adapter.

        Args:
            rows: (tokens of this step, mixture) per request, in the order of the step's tokens. A
                slot that a mixture names twice counts with the sum of its weights; terms of weight
                0 are dropped.
            bank: where the slots' adapters lie.

        Returns:
            The batch, or None when no token has an adapter: the base alone, untouched.

        Raises:
            ValueError: an empty slot, or a weight that is not finite.
        """
        runs_by_slot: dict[int, list[_Run]] = {}
        start = 0
        for count, mixture in rows:
            stop = start + count
            for slot, weight in _merged(mixture).items():
                if count and weight != 0.0:
                    runs_by_slot.setdefault(slot, []).append(_Run(start, stop, weight))
            start = stop
        if not runs_by_slot:
            return None
        lanes: dict[int, tuple[Lane, dict[int, list[_Run]]]] = {}
        for slot, runs in runs_by_slot.items():
            entry = bank.entry(slot)
            lanes.setdefault(id(entry.lane), (entry.lane, {}))[1][entry.position] = runs
        dense: list[DenseSegment] = []
        grouped: list[GroupedSegment] = []
        for lane, groups in lanes.values():
            limit = _group_limit(list(groups.values()))
            small = {p: runs for p, runs in groups.items() if _size(runs) <= limit}
            if len(small) > 1:
                grouped.append(_grouped_segment(lane, small, bank))
            else:
                small = {}
            for position, runs in groups.items():
                if position not in small:
                    dense.extend(_dense_segments(lane.single(position), runs, bank))
        return LoraBatch(start, tuple(dense), tuple(grouped))


def _merged(mixture: Mixture) -> dict[int, float]:
    merged: dict[int, float] = {}
    for slot, weight in mixture:
        if not math.isfinite(weight):
            raise ValueError(f"weight {weight} of slot {slot} is not finite")
        merged[slot] = merged.get(slot, 0.0) + weight
    return merged


def _size(runs: Iterable[_Run]) -> int:
    return sum(run.stop - run.start for run in runs)


def _group_limit(groups: Sequence[Sequence[_Run]]) -> int:
    """Largest group to be padded into the grouped form; larger ones get their own matmuls."""
    ordered = sorted((_size(runs), _dense_cost(runs)) for runs in groups)
    own = sum(cost for _, cost in ordered)
    best, best_cost = 0, own
    for count, (size, dense_cost) in enumerate(ordered, start=1):
        own -= dense_cost
        cost = _GROUPED_COST + count * size + own
        if cost < best_cost:
            best, best_cost = size, cost
    return best


def _dense_cost(runs: Sequence[_Run]) -> int:
    consecutive = runs[-1].stop - runs[0].start == _size(runs)
    return _RUN_COST if consecutive else _GATHERED_COST


def _dense_segments(
    stack: Stack, runs: Sequence[_Run], bank: AdapterBank
) -> Iterable[DenseSegment]:
    pieces: list[list[_Run]] = []
    for run in runs:
        if pieces and pieces[-1][-1].stop == run.start:
            pieces[-1].append(run)
        else:
            pieces.append([run])
    if len(pieces) > 1 and any(_size(piece) < _LONG_RUN for piece in pieces):
        index = torch.cat([torch.arange(run.start, run.stop) for run in runs])
        weights = _weights(runs, bank)
        yield DenseSegment(stack, 0, 0, index.to(bank.device, non_blocking=True), weights)
        return
    for piece in pieces:
        yield DenseSegment(stack, piece[0].start, piece[-1].stop, None, _weights(piece, bank))


def _weights(runs: Sequence[_Run], bank: AdapterBank) -> torch.Tensor:
    values = torch.tensor([run.weight for run in runs], dtype=bank.dtype)
    if any(run.stop - run.start != 1 for run in runs):
        values = values.repeat_interleave(torch.tensor([run.stop - run.start for run in runs]))
    return values.unsqueeze(1).to(bank.device, non_blocking=True)


def _grouped_segment(
    lane: Lane, groups: dict[int, list[_Run]], bank: AdapterBank
) -> GroupedSegment:
    stack, row_of = lane.stack(list(groups))
    width = max(_size(runs) for runs in groups.values())
    grid = [0] * (stack.size * width)
    weights = [0.0] * (stack.size * width)
    places_of: dict[int, list[int]] = {}
    for position, runs in groups.items():
        place = row_of[position] * width
        for run in runs:
            for token in range(run.start, run.stop):
                grid[place] = token
                weights[place] = run.weight
                places_of.setdefault(token, []).append(place)
                place += 1
    tokens = sorted(places_of)
    places: list[int] = []
    offsets: list[int] = []
    for token in tokens:
        offsets.append(len(places))
        places.extend(places_of[token])
    consecutive = tokens[-1] - tokens[0] + 1 == len(tokens)

    def indices(values: list[int]) -> torch.Tensor:
        return torch.tensor(values).to(bank.device, non_blocking=True)

    return GroupedSegment(
        stack,
        indices(grid),
        torch.tensor(weights, dtype=bank.dtype)
        .view(stack.size, width, 1)
        .to(bank.device, non_blocking=True),
        indices(places),
        indices(offsets) if len(places) > len(tokens) else None,
        tokens[0],
        tokens[-1] + 1,
        None if consecutive else indices(tokens),
    )
