"""The LoRA work of a step in device buffers whose addresses never change."""

import math
from collections.abc import Sequence
from enum import Enum

import torch

from kernels.lora.bank import AdapterBank
from kernels.lora.lora_batch import Mixture
from kernels.lora.triton_slots import SlotTable

TILE_TOKENS = 64
"""Tokens of one prefill tile: the rows of a tensor core product that keep two warps' worth of
accumulators per warp scheduler; a longer tile would leave a 2048-token chunk with too few."""

TILE_COLUMNS = 128
"""Output columns of one expanding program: 256 bytes of a row of B in half precision."""

SPLIT_FEATURES = 1024
"""Input features of a partial sum, unless there would be too many. A row's A x is then spread over
enough programs to fill a GPU at small batches."""

MAX_SPLITS = 8
"""Partial sums per pair that an expanding program adds up, in order."""

FEW_PROGRAMS = 264
"""Shrinking programs of tiles below which each of their sums is divided: two for each
multiprocessor of a large GPU."""


_Term = tuple[int, int, float]
"""Place in the mixture, slot, weight."""


class Form(Enum):
    """The way that a step's rows are launched."""

    DECODE = "decode"  # one token per row: matrix times vector, bound by memory
    RUNS = "runs"  # tiles of tokens with the same adapters: matrix products


def split_count(in_features: int) -> int:
    """Return the partial sums that a row's input features are divided into. It depends on the site
    alone, so a row's sums have one order whatever the batch."""
    return min(MAX_SPLITS, -(-in_features // SPLIT_FEATURES))


class TritonLoraBatch:
    """The adapters of a step's tokens, as kernels read them.

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
        self.longest = 0  # adapters of a row for which programs are launched; 0: nothing to do
        self.tiles = 0  # prefill tiles for which programs are launched
        max_tiles = max_rows + max_tokens // TILE_TOKENS

        def integers(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=device)

        self.counts = integers(max_rows)  # adapters of each row
        self.slots = integers(max_rows, max_pairs)
        self.pair_starts = integers(max_tokens)  # first pair of each token
        self.tile_bounds = integers(max_tiles, 3)  # a row, and its tile's bounds in tile_tokens
        self.tile_tokens = integers(max_tokens)
        self.pair_weights = torch.zeros(max_tokens * max_pairs, device=device)  # fp32
        self.weights = self.pair_weights[:0]  # [pairs], those of the step
        self.pair_tokens = torch.zeros(0, dtype=torch.int64)  # [pairs], on the host
        self.pair_terms = torch.zeros(0, dtype=torch.int64)  # [pairs], likewise: place in mixture
        self.scratch_width = bank.max_rank * self.table.slices
        splits = max(split_count(site.in_features) for site in bank.sites)
        self.scratch = torch.empty(  # weighted A x in fp32, by pair and split
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

    @property
    def valid(self) -> bool:
        """True: the adapters it reads stay until the next ``update``."""
        return True

    def tile_splits(self, site_index: int) -> int:
        """Return the programs that share a sum of a prefill tile: one for each partial sum where
        few tiles would leave a GPU idle and the scratch has room, else 1."""
        site = self.bank.sites[site_index]
        splits = split_count(site.in_features)
        programs = self.tiles * self.longest * len(site.out_slices)
        room = self.scratch.numel() // self.scratch_width
        fits = len(self.pair_tokens) * splits <= room
        return splits if programs < FEW_PROGRAMS and fits else 1

    def update(self, rows: Sequence[tuple[int, Mixture]], *, pad_to: int | None = None) -> bool:
        """Take over a step's rows.

        Args:
            rows: (tokens of this step, mixture) per row, in the order of the step's tokens. Terms
                of weight 0 are dropped.
            pad_to: decode rows that the launches of a captured graph cover; at least the rows
                given, which then have one token each.

        Returns:
            Whether there is anything to do; if not, ``add_lora`` launches nothing (``pad_to``
            aside) and the base alone is right.

        Raises:
            ValueError: more rows, tokens or adapters than there is room for, an empty slot, a
                weight that is not finite, or several tokens in a row under ``pad_to``.
        """
        counts = [count for count, _ in rows]
        terms = [_terms(mixture) if count else [] for count, mixture in rows]
        tokens, longest = sum(counts), max(map(len, terms), default=0)
        for name, value, room in (
            ("rows", len(rows), self.max_rows),
            ("tokens", tokens, self.max_tokens),
            ("adapters in a row", longest, self.max_pairs),
        ):
            if value > room:
                raise ValueError(f"{value} {name}, room for {room}")
        decode = all(count == 1 for count in counts)
        if pad_to is not None and not (decode and tokens <= pad_to <= self.max_rows):
            raise ValueError(f"{tokens} tokens in {len(rows)} rows do not fit {pad_to} decode rows")
        self._held = self.table.refresh({slot for row in terms for _, slot, _ in row})
        self.form = Form.DECODE if decode else Form.RUNS
        self.tokens = tokens if pad_to is None else pad_to
        self.longest = longest if pad_to is None else self.max_pairs
        if self.longest:
            self._fill(counts, terms)
        else:
            self.weights = self.pair_weights[:0]
            self.pair_tokens, self.pair_terms = self.pair_tokens[:0], self.pair_terms[:0]
        return longest > 0

    def release(self) -> None:
        """Release the adapters that the last ``update`` took over; no step may read them any
        more before the next one."""
        self._held = ()

    def _fill(self, counts: Sequence[int], terms: Sequence[Sequence[_Term]]) -> None:
        lengths = [len(row) for row in terms]
        slots: list[int] = []
        for row in terms:
            slots += [slot for _, slot, _ in row] + [0] * (self.max_pairs - len(row))
        _send(lengths + [0] * (self.max_rows - len(terms)), self.counts)
        _send(slots, self.slots.view(-1))
        if self.form is Form.RUNS:
            bounds, tokens = _token_tiles(counts, terms)
            self.tiles = len(bounds) // 3
            _send(bounds, self.tile_bounds.view(-1))
            _send(tokens, self.tile_tokens)
        self._fill_pairs(
            torch.tensor(counts, dtype=torch.int64), torch.tensor(lengths, dtype=torch.int64), terms
        )

    def _fill_pairs(
        self, counts: torch.Tensor, lengths: torch.Tensor, terms: Sequence[Sequence[_Term]]
    ) -> None:
        """Return the pairs in the order of tokens, and of terms inside a token."""
        row_of = torch.arange(len(counts)).repeat_interleave(counts)
        by_token = lengths[row_of]
        starts = by_token.cumsum(0) - by_token
        self.pair_tokens = torch.arange(len(row_of)).repeat_interleave(by_token)
        row_starts = lengths.cumsum(0) - lengths
        shift = (row_starts[row_of] - starts)[self.pair_tokens]
        place = torch.arange(len(shift)) + shift  # of each pair's term among all rows' terms
        self.pair_terms = torch.tensor(
            [term for row in terms for term, _, _ in row], dtype=torch.int64
        )[place]
        weights = torch.tensor([weight for row in terms for _, _, weight in row])[place]
        self.weights = self.pair_weights[: len(weights)]
        self.weights.copy_(weights, non_blocking=True)
        self.pair_starts[: len(starts)].copy_(starts, non_blocking=True)


def _terms(mixture: Mixture) -> list[_Term]:
    for slot, weight in mixture:
        if not math.isfinite(weight):
            raise ValueError(f"weight {weight} of slot {slot} is not finite")
    return [(term, slot, weight) for term, (slot, weight) in enumerate(mixture) if weight != 0.0]


def _send(values: Sequence[int], target: torch.Tensor) -> None:
    host = torch.tensor(values, dtype=target.dtype)
    target[: len(host)].copy_(host, non_blocking=True)


def _token_tiles(
    counts: Sequence[int], terms: Sequence[Sequence[_Term]]
) -> tuple[list[int], list[int]]:
    """Put tokens of rows that use the same adapters, whatever their weights, into tiles together.

    Returns:
        (a row with these adapters, first token, end of the tokens) of each tile, as places in the
        second list; the tokens. Rows without adapters have none.
    """
    groups: dict[tuple[int, ...], tuple[int, list[int]]] = {}
    start = 0
    for row, (count, own) in enumerate(zip(counts, terms, strict=True)):
        if own:
            _, members = groups.setdefault(tuple(slot for _, slot, _ in own), (row, []))
            members += range(start, start + count)
        start += count
    bounds: list[int] = []
    tokens: list[int] = []
    for row, members in groups.values():
        end = len(tokens) + len(members)
        for first in range(len(tokens), end, TILE_TOKENS):
            bounds += (row, first, end)
        tokens += members
    return bounds, tokens


def _column_tiles(widths: Sequence[int]) -> torch.Tensor:
    """Return [tiles, 4] int32: slice, first column inside it, its width, its first column in y."""
    tiles: list[tuple[int, int, int, int]] = []
    column = 0
    for part, width in enumerate(widths):
        tiles += [(part, first, width, column) for first in range(0, width, TILE_COLUMNS)]
        column += width
    return torch.tensor(tiles, dtype=torch.int32)
