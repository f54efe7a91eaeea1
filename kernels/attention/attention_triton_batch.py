"""Maps a step's tokens to the paged cache, in buffers whose addresses never change."""

from collections.abc import Sequence

import torch

TILE_QUERIES = 64
"""Tokens of one prefill tile."""

NO_WINDOW = 2**30
"""Stands for attention over the whole context."""

SPLIT_KEYS = 256
"""Least number of keys for which a decode row gets one more program per key/value head."""

MAX_SPLITS = 16
"""Most programs per decode row and key/value head: 8 heads of one row then fill a large GPU."""


class TritonPagedBatch:
    """One step's view of the paged cache, as kernels read it.

    All buffers are allocated here. ``update`` fills them; a CUDA graph captured over them computes
    with what they hold when it is replayed. A row is a decode row when it has one new token.

    Args:
        max_tokens: most new tokens of a step.
        max_rows: most rows of a step.
        max_len: longest sequence in tokens.
        block_size: tokens per block.
        device: of the cache.
    """

    def __init__(
        self,
        *,
        max_tokens: int,
        max_rows: int,
        max_len: int,
        block_size: int,
        device: torch.device | str,
    ) -> None:
        self.max_tokens, self.max_rows, self.max_len = max_tokens, max_rows, max_len
        self.block_size = block_size
        self.max_blocks = -(-max_len // block_size)
        max_tiles = max_rows + max_tokens // TILE_QUERIES
        sizes = [3 * max_rows, 2 * max_tiles]
        self._ints = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
        rows, tiles = torch.split_with_sizes(self._ints, sizes)
        self.rows = rows.view(max_rows, 3)  # first token, length with the new tokens, new tokens
        self.tile_bounds = tiles.view(max_tiles, 2)  # row, first new token inside it
        self.block_tables = torch.zeros(
            (max_rows, self.max_blocks), dtype=torch.int32, device=device
        )
        self.kv_indices = torch.full((max_tokens,), -1, dtype=torch.int64, device=device)
        self.tokens = 0  # of the step, or the padded number
        self.decode_rows = 0  # rows for which decode programs are launched; 0: none decodes
        self.tiles = 0  # prefill tiles for which programs are launched
        self._host_tables = torch.zeros((max_rows, self.max_blocks), dtype=torch.int32)
        self._tables: list[tuple[int, ...]] = [()] * max_rows

    def update(
        self,
        block_tables: Sequence[Sequence[int]],
        context_lens: Sequence[int],
        query_lens: Sequence[int],
        *,
        pad_to: int | None = None,
    ) -> None:
        """Take over a step's rows, in the order of its tokens.

        Args:
            block_tables: blocks of positions 0, block_size, ... of each row.
            context_lens: tokens of each row already in the cache.
            query_lens: new tokens of each row, at least 1; their sum is T.
            pad_to: decode rows that the launches of a captured graph cover; at least the rows
                given, which then have one new token each. Nothing is stored or computed for the
                padding.

        Raises:
            ValueError: a row without new tokens, a block table shorter than its tokens, more rows,
                tokens or positions than there is room for, or prefill under ``pad_to``.
        """
        count = len(block_tables)
        tokens = sum(query_lens)
        self._check(block_tables, context_lens, query_lens)
        if pad_to is not None and not (tokens == count <= pad_to <= self.max_rows):
            raise ValueError(f"{tokens} tokens in {count} rows do not fit {pad_to} decode rows")
        size = self.block_size
        rows: list[int] = []
        tiles: list[int] = []
        kv_indices: list[int] = []
        start = 0
        for row, (table, context, new) in enumerate(
            zip(block_tables, context_lens, query_lens, strict=True)
        ):
            rows += (start, context + new, new)
            start += new
            if new > 1:
                for first in range(0, new, TILE_QUERIES):
                    tiles += (row, first)
            kv_indices += [
                table[p // size] * size + p % size for p in range(context, context + new)
            ]
        rows += [0] * (3 * (self.max_rows - count))
        if pad_to is not None:
            kv_indices += [-1] * (pad_to - tokens)
        ints = torch.tensor(rows + tiles, dtype=torch.int32)
        self._ints[: len(ints)].copy_(ints, non_blocking=True)
        places = torch.tensor(kv_indices, dtype=torch.int64)
        self.kv_indices[: len(kv_indices)].copy_(places, non_blocking=True)
        self._take_tables(block_tables)
        self.tokens = len(kv_indices)
        self.tiles = len(tiles) // 2
        self.decode_rows = pad_to or (count if 1 in query_lens else 0)

    def splits(self, window: int) -> int:
        """Return the programs among which the longest decode row is divided: a power of two that
        depends on capacities alone, so a row's sums have one order whatever the batch."""
        pieces = -(-min(window, self.max_len) // SPLIT_KEYS)
        return min(MAX_SPLITS, 1 << (pieces - 1).bit_length())

    def _check(
        self,
        block_tables: Sequence[Sequence[int]],
        context_lens: Sequence[int],
        query_lens: Sequence[int],
    ) -> None:
        longest = max(map(sum, zip(context_lens, query_lens, strict=True)), default=0)
        for name, value, room in (
            ("rows", len(block_tables), self.max_rows),
            ("tokens", sum(query_lens), self.max_tokens),
            ("positions", longest, self.max_len),
        ):
            if value > room:
                raise ValueError(f"{value} {name}, room for {room}")
        for row, (table, context, new) in enumerate(
            zip(block_tables, context_lens, query_lens, strict=True)
        ):
            if new < 1:
                raise ValueError(f"row {row} has no new tokens")
            if len(table) * self.block_size < context + new:
                raise ValueError(
                    f"row {row}: {len(table)} blocks of {self.block_size} hold fewer "
                    f"than {context + new}"
                )

    def _take_tables(self, block_tables: Sequence[Sequence[int]]) -> None:
        changed = False
        for row, table in enumerate(block_tables):
            kept = tuple(table[: self.max_blocks])
            if kept != self._tables[row]:
                self._tables[row] = kept
                self._host_tables[row, : len(kept)] = torch.tensor(kept, dtype=torch.int32)
                changed = True
        if changed:
            count = len(block_tables)
            self.block_tables[:count].copy_(self._host_tables[:count], non_blocking=True)
