"""The LoRA work of a step in device buffers whose addresses never change."""

import math
from collections.abc import Sequence
from enum import Enum

import torch

from kernels.lora.bank import AdapterBank
from kernels.lora.batch import Mixture
from kernels.lora.triton_slots import SlotTable

TILE_TOKENS = 64
"""Tokens of one prefill tile: the rows of a tensor core product that keep two warps' worth of
accumulators per warp scheduler; a longer tile would leave a 2048-token chunk with too few."""

TILE_COLUMNS = 128
"""Output columns of one expanding program: 256 bytes of a row of B in half precision."""

SPLIT_FEATURES = 1024
"""Input features per shrinking program in decode. A row's A x is then spread over enough programs
to fill a GPU at small batches."""

MAX_SPLITS = 8
"""Partial sums per pair that an expanding program adds up, in order."""


_ABSENT = -1
"""Slot of a term that is dropped. Kernels find slot 0 there, with a weight of 0."""


class Form(Enum):
    """How a step's rows are launched."""

    DECODE = "decode"  # one token per row: matrix times vector, bound by memory
    SEGMENTS = "segments"  # runs of tokens with one mixture: tiles of matrix products


def split_count(in_features: int) -> int:
    """Programs among which a decode row's input features are divided. It depends on the site alone,
    so a row's sums have one order whatever the batch."""
    return min(MAX_SPLITS, -(-in_features // SPLIT_FEATURES))


class TritonLoraBatch:
    """Which adapters apply to which tokens, as kernels read it.

    All buffers are allocated here. ``update`` fills them; a CUDA graph captured over them computes
    with what they hold when it is replayed. Launch sizes follow the batch, except under ``pad_to``,
    where they follow the capacities, so that one capture serves every batch that fits.

    Args:
        bank: where the slots' adapters lie.
        max_tokens: most tokens of a step.
        max_rows: most rows of a step.
        max_pairs: most adapters of a row.
    """

    def __init__(
        self, bank: AdapterBank, *, max_tokens: int, max_rows: int, max_pairs: int = 8
    ) -> None:
        device = bank.device
        self.bank = bank
        self.max_tokens, self.max_rows, self.max_pairs = max_tokens, max_rows, max_pairs
        self.table = SlotTable(bank)
        self.form = Form.DECODE
        self.tokens = 0  # of the step, or the padded number
        self.pairs = 0  # adapters per row for which programs are launched; 0: nothing to do
        self.tiles = 0  # prefill tiles for which programs are launched
        max_tiles = max_rows + max_tokens // TILE_TOKENS
        self._ints = torch.zeros(
            max_rows * (1 + max_pairs) + 3 * max_tiles, dtype=torch.int32, device=device
        )
        sizes = [max_rows, max_rows * max_pairs, 3 * max_tiles]
        counts, slots, tiles = torch.split_with_sizes(self._ints, sizes)
        self.counts = counts  # [max_rows], adapters of each row
        self.slots = slots.view(max_rows, max_pairs)
        self.tile_bounds = tiles.view(max_tiles, 3)  # row, first token, end of the row's tokens
        self.weights = torch.zeros((max_tokens, max_pairs), device=device)  # fp32
        self.scratch_width = bank.max_rank * self.table.slices
        splits = max(split_count(site.in_features) for site in bank.sites)
        self.scratch = torch.empty(  # weighted A x in fp32, by (token, pair, split)
            max(max_tokens, max_rows * splits) * max_pairs * self.scratch_width,
            dtype=torch.float32,
            device=device,
        )
        self.column_tiles = tuple(
            _column_tiles([width for _, width in site.out_slices]).to(device) for site in bank.sites
        )
        self.aligned = tuple(
            all(width % 16 == 0 for _, width in site.out_slices) for site in bank.sites
        )
        self._held: tuple[torch.Tensor, ...] = ()

    def update(
        self,
        rows: Sequence[tuple[int, Mixture]],
        *,
        pad_to: int | None = None,
        gated: bool = False,
    ) -> bool:
        """Take over a step's rows.

        Args:
            rows: (tokens of this step, mixture) per row, in the order of the step's tokens. The
                k-th term of a mixture is pair k of the row, which a router's own weights refer to.
            pad_to: decode rows that the launches of a captured graph cover; at least the rows
                given, which then have one token each.
            gated: a router sets the weights on the device, so terms of weight 0 count as work;
                else they are dropped, whatever their slot holds.

        Returns:
            Whether there is anything to do; if not, ``add_lora`` launches nothing (``pad_to``
            aside) and the base alone is right.

        Raises:
            ValueError: more rows, tokens or adapters than there is room for, an empty slot, a
                weight that is not finite, or several tokens in a row under ``pad_to``.
        """
        counts = [count for count, _ in rows]
        mixtures = [
            [(slot if gated or weight != 0.0 else _ABSENT, weight) for slot, weight in mixture]
            for _, mixture in rows
        ]
        tokens, longest = sum(counts), max(map(len, mixtures), default=0)
        self._check(len(rows), tokens, longest, mixtures)
        decode = all(count == 1 for count in counts)
        if pad_to is not None and not (decode and tokens <= pad_to <= self.max_rows):
            raise ValueError(f"{tokens} tokens in {len(rows)} rows do not fit {pad_to} decode rows")
        self.form = Form.DECODE if decode else Form.SEGMENTS
        used = {slot for mixture in mixtures for slot, _ in mixture} - {_ABSENT}
        working = any(
            count and slot != _ABSENT
            for count, mixture in zip(counts, mixtures, strict=True)
            for slot, _ in mixture
        )
        self._held = self.table.refresh(used)
        self.tokens = tokens if pad_to is None else pad_to
        self.pairs = self.max_pairs if pad_to is not None else longest if working else 0
        if working or pad_to is not None:
            self._fill(counts, mixtures)
        return working

    def _check(self, rows: int, tokens: int, longest: int, mixtures: Sequence[Mixture]) -> None:
        for name, value, room in (
            ("rows", rows, self.max_rows),
            ("tokens", tokens, self.max_tokens),
            ("adapters in a row", longest, self.max_pairs),
        ):
            if value > room:
                raise ValueError(f"{value} {name}, room for {room}")
        for mixture in mixtures:
            for slot, weight in mixture:
                if not math.isfinite(weight):
                    raise ValueError(f"weight {weight} of slot {slot} is not finite")

    def _fill(self, counts: Sequence[int], mixtures: Sequence[Mixture]) -> None:
        ints = [len(mixture) for mixture in mixtures] + [0] * (self.max_rows - len(mixtures))
        weights: list[list[float]] = []
        for mixture in mixtures:
            padding = self.max_pairs - len(mixture)
            ints += [max(slot, 0) for slot, _ in mixture] + [0] * padding
            weights.append([weight for _, weight in mixture] + [0.0] * padding)
        ints += [0] * (self.max_rows - len(mixtures)) * self.max_pairs
        if self.form is Form.SEGMENTS:
            bounds = _token_tiles(counts, mixtures)
            self.tiles = len(bounds) // 3
            ints += bounds
        host = torch.tensor(ints, dtype=torch.int32)
        self._ints[: len(ints)].copy_(host, non_blocking=True)
        if weights:
            by_row = torch.tensor(weights, dtype=torch.float32)
            by_token = by_row.repeat_interleave(torch.tensor(counts), dim=0)
            self.weights[: len(by_token)].copy_(by_token, non_blocking=True)


def _token_tiles(counts: Sequence[int], mixtures: Sequence[Mixture]) -> list[int]:
    """(row, first token, end of the row's tokens) of each tile; rows without adapters have none."""
    bounds: list[int] = []
    start = 0
    for row, (count, mixture) in enumerate(zip(counts, mixtures, strict=True)):
        if mixture:
            for first in range(start, start + count, TILE_TOKENS):
                bounds += (row, first, start + count)
        start += count
    return bounds


def _column_tiles(widths: Sequence[int]) -> torch.Tensor:
    """[tiles, 4] int32: slice, first column inside it, its width, its first column in y."""
    tiles: list[tuple[int, int, int, int]] = []
    column = 0
    for part, width in enumerate(widths):
        tiles += [(part, first, width, column) for first in range(0, width, TILE_COLUMNS)]
        column += width
    return torch.tensor(tiles, dtype=torch.int32)
