"""Assigns a step's adapters to its tokens, once per step for all its sites."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from kernels.lora.bank import AdapterBank
from kernels.lora.lane import Lane, Stack
from kernels.lora.lora_native import native_groups_available, native_run
from kernels.lora.runs import DenseRun, GroupedRun, NativeRun

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
class Run:
    """Consecutive tokens with one adapter and one weight."""

    start: int
    stop: int
    weight: float
    term: int  # place of the adapter in the request's mixture

    @property
    def size(self) -> int:
        """Tokens."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class LoraBatch:
    """The LoRA work of one step, the same for all sites.

    The work is a list of (token, adapter) pairs, and each pair has a weight. A router that decides
    per layer or per token hands `add_lora` other weights for the same pairs.

    A batch may be kept for as many steps as its rows and the adapters in its slots stay the same
    and ``valid`` holds: building another batch may reorganise what it reads.
    """

    tokens: int
    pair_tokens: torch.Tensor  # [pairs] int64, on the host
    pair_terms: torch.Tensor  # [pairs] int64, place in the token's mixture; on the host
    weights: torch.Tensor  # [pairs], of the bank's dtype and device
    dense: tuple[DenseRun, ...]
    grouped: tuple[GroupedRun, ...]
    native: NativeRun | None  # then the only one

    @property
    def valid(self) -> bool:
        """True if everything the batch reads is still in place."""
        return all(run.stack.valid for run in self.grouped) and all(
            run.stack.valid for run in self.dense
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
            The batch, or None if no token has an adapter: the base alone, untouched.

        Raises:
            ValueError: an empty slot, or a weight that is not finite.
        """
        runs_by_slot: dict[int, list[Run]] = {}
        start = 0
        for count, mixture in rows:
            stop = start + count
            for slot, (weight, term) in _merged(mixture).items():
                if count and weight != 0.0:
                    runs_by_slot.setdefault(slot, []).append(Run(start, stop, weight, term))
            start = stop
        if not runs_by_slot:
            return None
        builder = _Builder(bank)
        if native_groups_available(bank):
            builder.add_native(runs_by_slot)
        else:
            builder.add_stacked(runs_by_slot)
        return builder.batch(start)


class _Builder:
    """Collects runs and their pairs."""

    def __init__(self, bank: AdapterBank) -> None:
        self._bank = bank
        self._pairs: list[Run] = []  # of one token each, in pair order
        self._dense: list[DenseRun] = []
        self._grouped: list[GroupedRun] = []
        self._native: NativeRun | None = None

    def add_native(self, runs_by_slot: dict[int, list[Run]]) -> None:
        """Add runs for the native kernel, by slot: a token's sum has one order whatever else is
        there."""
        groups = []
        for slot in sorted(runs_by_slot):
            pairs = list(_pairs(runs_by_slot[slot]))
            groups.append((slot, len(self._pairs), [pair.start for pair in pairs]))
            self._pairs += pairs
        self._native = native_run(self._bank, groups)

    def add_stacked(self, runs_by_slot: dict[int, list[Run]]) -> None:
        """Add runs for matmuls, lane by lane."""
        lanes: dict[int, tuple[Lane, dict[int, list[Run]]]] = {}
        for slot, runs in runs_by_slot.items():
            entry = self._bank.entry(slot)
            lanes.setdefault(id(entry.lane), (entry.lane, {}))[1][entry.position] = runs
        for lane, groups in lanes.values():
            limit = _group_limit(list(groups.values()))
            small = {p: runs for p, runs in groups.items() if _size(runs) <= limit}
            if len(small) > 1:
                self._add_grouped(lane, small)
            else:
                small = {}
            for position, runs in groups.items():
                if position not in small:
                    self._add_dense(lane.single(position), runs)

    def batch(self, tokens: int) -> LoraBatch:
        """Return everything added so far."""
        weights = torch.tensor([pair.weight for pair in self._pairs], dtype=self._bank.dtype)
        return LoraBatch(
            tokens,
            torch.tensor([pair.start for pair in self._pairs]),
            torch.tensor([pair.term for pair in self._pairs]),
            weights.to(self._bank.device, non_blocking=True),
            tuple(self._dense),
            tuple(self._grouped),
            self._native,
        )

    def _add_dense(self, stack: Stack, runs: Sequence[Run]) -> None:
        pieces: list[list[Run]] = []
        for run in runs:
            if pieces and pieces[-1][-1].stop == run.start:
                pieces[-1].append(run)
            else:
                pieces.append([run])
        if len(pieces) > 1 and any(_size(piece) < _LONG_RUN for piece in pieces):
            pieces = [list(runs)]
        for piece in pieces:
            first = len(self._pairs)
            self._pairs += _pairs(piece)
            start, stop = piece[0].start, piece[-1].stop
            tokens = None
            if _size(piece) != stop - start:
                tokens = self._indices([pair.start for pair in self._pairs[first:]])
            self._dense.append(DenseRun(stack, first, len(self._pairs), start, stop, tokens))

    def _add_grouped(self, lane: Lane, groups: dict[int, list[Run]]) -> None:
        stack, row_of = lane.stack(list(groups))
        width = max(_size(runs) for runs in groups.values())
        grid = [0] * (stack.size * width)
        placed: dict[int, list[tuple[int, Run]]] = {}  # by token
        for position, runs in groups.items():
            for place, pair in enumerate(_pairs(runs), start=row_of[position] * width):
                grid[place] = pair.start
                placed.setdefault(pair.start, []).append((place, pair))
        tokens = sorted(placed)
        first = len(self._pairs)
        places: list[int] = []
        offsets: list[int] = []
        for token in tokens:
            offsets.append(len(places))
            places += [place for place, _ in placed[token]]
            self._pairs += [pair for _, pair in placed[token]]
        consecutive = tokens[-1] - tokens[0] + 1 == len(tokens)
        self._grouped.append(
            GroupedRun(
                stack,
                first,
                len(self._pairs),
                width,
                self._indices(grid),
                self._indices(places),
                self._indices(offsets) if len(places) > len(tokens) else None,
                tokens[0],
                tokens[-1] + 1,
                None if consecutive else self._indices(tokens),
            )
        )

    def _indices(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values).to(self._bank.device, non_blocking=True)


def _merged(mixture: Mixture) -> dict[int, tuple[float, int]]:
    """Return (weight, place of its first term) by slot."""
    merged: dict[int, tuple[float, int]] = {}
    for term, (slot, weight) in enumerate(mixture):
        if not math.isfinite(weight):
            raise ValueError(f"weight {weight} of slot {slot} is not finite")
        before, place = merged.get(slot, (0.0, term))
        merged[slot] = (before + weight, place)
    return merged


def _pairs(runs: Iterable[Run]) -> Iterable[Run]:
    """Split runs into runs of one token each."""
    for run in runs:
        for token in range(run.start, run.stop):
            yield Run(token, token + 1, run.weight, run.term)


def _size(runs: Iterable[Run]) -> int:
    return sum(run.size for run in runs)


def _group_limit(groups: Sequence[Sequence[Run]]) -> int:
    """Return the largest group to be padded into the grouped form; larger ones get their own
    matmuls."""
    ordered = sorted((_size(runs), _dense_cost(runs)) for runs in groups)
    own = sum(cost for _, cost in ordered)
    best, best_cost = 0, own
    for count, (size, dense_cost) in enumerate(ordered, start=1):
        own -= dense_cost
        cost = _GROUPED_COST + count * size + own
        if cost < best_cost:
            best, best_cost = size, cost
    return best


def _dense_cost(runs: Sequence[Run]) -> int:
    consecutive = runs[-1].stop - runs[0].start == _size(runs)
    return _RUN_COST if consecutive else _GATHERED_COST
