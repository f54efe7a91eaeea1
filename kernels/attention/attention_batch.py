"""Maps a step's tokens to the paged cache they read and write, once for all layers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from kernels.attention.attention_native import NativeDecode, native_attention_available

_BUCKET_COST = 16
"""Cost of one more call for decode rows, in padded blocks (measured)."""


_GATHERED_BYTES = 3 * 2**19
"""Keys and values that are gathered at once on the CPU, per thread: attention then reads them from
the core's own cache (measured with 2 MiB of L2)."""


@dataclass(frozen=True, slots=True)
class DecodePart:
    """Rows [start, stop) of a decode plan, gathered together."""

    start: int
    stop: int
    blocks: torch.Tensor  # [rows * blocks per row] int64
    mask: torch.Tensor  # [rows, 1, 1, L]
    gathered: torch.Tensor  # [rows * blocks per row, block_size, 2 * H_kv, D], written per layer
    k: torch.Tensor  # [rows, H_kv, L, D], a view of ``gathered``
    v: torch.Tensor  # likewise


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """Decode rows of similar length, padded to L = blocks per row * block_size."""

    tokens: torch.Tensor | None  # [rows] int64, token of each row; None: all tokens, in order
    rows: int
    blocks: torch.Tensor  # [rows * blocks per row] int64; padding repeats the row's last block
    mask: torch.Tensor  # [rows, 1, 1, L], 0 where a position is seen, else -inf
    _parts: dict[tuple[torch.Size, torch.dtype], tuple[DecodePart, ...]] = field(
        default_factory=dict
    )

    def parts(self, kv: torch.Tensor) -> tuple[DecodePart, ...]:
        """Return the rows in pieces that share one buffer, the same for all layers of one shape.

        Args:
            kv: a layer's cache [num_blocks, block_size, 2 * H_kv, D].
        """
        parts = self._parts.get((kv.shape, kv.dtype))
        if parts is None:
            parts = self._parts[kv.shape, kv.dtype] = tuple(self._split(kv))
        return parts

    def _split(self, kv: torch.Tensor) -> Iterator[DecodePart]:
        width = self.blocks.shape[0] // self.rows
        most = self.rows
        if kv.device.type == "cpu":
            row_nbytes = width * kv[0].numel() * kv.element_size()
            most = min(most, max(1, torch.get_num_threads() * _GATHERED_BYTES // row_nbytes))
        count = -(-self.rows // most)
        most = -(-self.rows // count)  # pieces of about the same size
        buffer = torch.empty((most * width, *kv.shape[1:]), dtype=kv.dtype, device=kv.device)
        for start in range(0, self.rows, most):
            stop = min(start + most, self.rows)
            gathered = buffer[: (stop - start) * width]
            k, v = heads_first(gathered, stop - start)
            blocks = self.blocks[start * width : stop * width]
            yield DecodePart(start, stop, blocks, self.mask[start:stop], gathered, k, v)


@dataclass(frozen=True, slots=True)
class PrefillPlan:
    """One row with several new tokens."""

    start: int  # tokens [start, stop) of the step
    stop: int
    blocks: torch.Tensor  # [blocks] int64, of the positions seen by any of the tokens
    first: int  # first key inside those blocks
    keys: int  # L, keys from there on
    mask: torch.Tensor | None  # [tokens, L], 0 or -inf; None: plain causal, no earlier context


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """All reads of a step under one window."""

    native: NativeDecode | None  # all decode rows, where the native kernel takes them
    decode: tuple[DecodePlan, ...]  # else
    prefill: tuple[PrefillPlan, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    table: tuple[int, ...]
    context: int
    count: int
    start: int  # first token


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """One step's view of the paged cache. Build it once, use it in every layer.

    Args of ``build`` are per row, in the order of the step's tokens. A row is a decode row when it
    has one new token, whatever its context.
    """

    tokens: int
    block_size: int
    dtype: torch.dtype
    device: torch.device
    kv_indices: torch.Tensor  # [T] int64: block * block_size + offset, where tokens are stored
    opened_blocks: torch.Tensor | None  # [n] int64: begun and not filled by this step's tokens
    _rows: tuple[_Row, ...]
    _plans: dict[int | None, AttentionPlan] = field(default_factory=dict)

    @staticmethod
    def build(
        block_tables: Sequence[Sequence[int]],
        context_lens: Sequence[int],
        query_lens: Sequence[int],
        *,
        block_size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> "PagedBatch":
        """Compute a step's writes; reads follow per window, on first use.

        Args:
            block_tables: blocks of positions 0, block_size, ... of each row.
            context_lens: tokens of each row already in the cache.
            query_lens: new tokens of each row, at least 1; their sum is T.
            block_size: tokens per block.
            dtype: of the queries, for the masks.
            device: of the cache.

        Raises:
            ValueError: a row without new tokens, or a block table shorter than its tokens.
        """
        rows: list[_Row] = []
        kv_indices: list[int] = []
        opened: list[int] = []
        for table, context, count in zip(block_tables, context_lens, query_lens, strict=True):
            end = context + count
            if count < 1:
                raise ValueError(f"row {len(rows)} has no new tokens")
            if len(table) * block_size < end:
                raise ValueError(
                    f"row {len(rows)}: {len(table)} blocks of {block_size} hold fewer than {end}"
                )
            rows.append(_Row(tuple(table), context, count, len(kv_indices)))
            kv_indices.extend(
                table[position // block_size] * block_size + position % block_size
                for position in range(context, end)
            )
            if end % block_size and context <= end - end % block_size:
                opened.append(table[end // block_size])
        return PagedBatch(
            len(kv_indices),
            block_size,
            dtype,
            torch.device(device),
            torch.tensor(kv_indices).to(device, non_blocking=True),
            torch.tensor(opened).to(device, non_blocking=True) if opened else None,
            tuple(rows),
        )

    def plan(self, window: int | None = None) -> AttentionPlan:
        """Return the reads under a sliding window (None: whole context), worked out once per
        window."""
        plan = self._plans.get(window)
        if plan is None:
            decode = [row for row in self._rows if row.count == 1]
            prefill = [row for row in self._rows if row.count > 1]
            native = None
            if decode and native_attention_available(self.dtype, self.device):
                native, decode = self._native_decode(decode, window), []
            plan = self._plans[window] = AttentionPlan(
                native,
                tuple(
                    self._decode_plan(bucket, window) for bucket in self._buckets(decode, window)
                ),
                tuple(self._prefill_plan(row, window) for row in prefill),
            )
        return plan

    def _first_block(self, position: int, window: int | None) -> int:
        return 0 if window is None else max(0, position - window + 1) // self.block_size

    def _blocks_seen(self, row: _Row, window: int | None) -> tuple[int, ...]:
        last = row.context + row.count - 1
        first = self._first_block(row.context, window)
        return row.table[first : last // self.block_size + 1]

    def _buckets(self, rows: Sequence[_Row], window: int | None) -> list[list[_Row]]:
        """Split rows, sorted by length, where padding would cost more than one more call."""
        ordered = sorted(rows, key=lambda row: len(self._blocks_seen(row, window)))
        lengths = [len(self._blocks_seen(row, window)) for row in ordered]
        best = [0.0] + [float("inf")] * len(ordered)
        cut = [0] * (len(ordered) + 1)
        for end in range(1, len(ordered) + 1):
            if end < len(ordered) and lengths[end] == lengths[end - 1]:
                continue
            for begin in range(end):
                cost = best[begin] + _BUCKET_COST + (end - begin) * lengths[end - 1]
                if cost < best[end]:
                    best[end], cut[end] = cost, begin
        buckets: list[list[_Row]] = []
        end = len(ordered)
        while end:
            bucket = sorted(ordered[cut[end] : end], key=lambda row: row.start)
            buckets.insert(0, bucket)
            end = cut[end]
        return buckets

    @staticmethod
    def _native_decode(rows: Sequence[_Row], window: int | None) -> NativeDecode:
        first = [0 if window is None else max(0, row.context - window + 1) for row in rows]
        return NativeDecode.build(
            [row.start for row in rows],
            [row.table for row in rows],
            [(begin, row.context + 1) for begin, row in zip(first, rows, strict=True)],
        )

    def _decode_plan(self, rows: Sequence[_Row], window: int | None) -> DecodePlan:
        width = max(len(self._blocks_seen(row, window)) for row in rows)
        blocks: list[int] = []
        seen: list[tuple[int, int]] = []
        for row in rows:
            own = self._blocks_seen(row, window)
            blocks.extend(own)
            blocks.extend(own[-1:] * (width - len(own)))
            base = self._first_block(row.context, window) * self.block_size
            begin = 0 if window is None else max(0, row.context - window + 1)
            seen.append((begin - base, row.context + 1 - base))
        keys = torch.arange(width * self.block_size)
        bounds = torch.tensor(seen)
        hidden = (keys < bounds[:, :1]) | (keys >= bounds[:, 1:])
        mask = torch.zeros(hidden.shape, dtype=self.dtype).masked_fill_(hidden, float("-inf"))
        everything = len(rows) == self.tokens
        return DecodePlan(
            None if everything else self._indices([row.start for row in rows]),
            len(rows),
            self._indices(blocks),
            mask.view(len(rows), 1, 1, -1).to(self.device, non_blocking=True),
        )

    def _prefill_plan(self, row: _Row, window: int | None) -> PrefillPlan:
        end = row.context + row.count
        base = self._first_block(row.context, window) * self.block_size
        begin = 0 if window is None else max(0, row.context - window + 1)
        mask = None
        if begin or row.context or (window is not None and window < row.count):
            queries = torch.arange(row.context, end).unsqueeze(1)
            keys = torch.arange(begin, end)
            hidden = keys > queries
            if window is not None:
                hidden |= keys <= queries - window
            mask = torch.zeros(hidden.shape, dtype=self.dtype)
            mask = mask.masked_fill_(hidden, float("-inf")).to(self.device, non_blocking=True)
        return PrefillPlan(
            row.start,
            row.start + row.count,
            self._indices(self._blocks_seen(row, window)),
            begin - base,
            end - begin,
            mask,
        )

    def _indices(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values).to(self.device, non_blocking=True)


def heads_first(blocks: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the keys and values, views [rows, H_kv, L, D] of gathered blocks [n, block_size, 2 *
    H_kv, D]."""
    _, _, heads, dim = blocks.shape
    k, v = blocks.view(rows, -1, 2, heads // 2, dim).permute(2, 0, 3, 1, 4).unbind(0)
    return k, v
