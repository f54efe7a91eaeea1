"""Gives the rows of the batch their KV blocks: what each needs, holds, and may still ask for."""

from collections.abc import Sequence

from cluster.engine.scheduling.block_claims import KvRoom
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.sequence import EngineSequence


class RowBlocks:
    """Takes blocks of a pool for sequences, and gives them back."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool

    def room(self, running: Sequence[EngineSequence]) -> KvRoom:
        """Return the pool as claims see it, given the rows of the batch."""
        return KvRoom(
            total=self._pool.num_blocks,
            free=self._pool.num_free,
            needed=self._needed,
            reserve=lambda sequence: self._reserve(sequence, running),
            held=self._held,
        )

    def take(
        self, sequence: EngineSequence, hits: list[int], running: Sequence[EngineSequence]
    ) -> bool:
        """Give a waiting sequence the blocks of all its tokens; False if there are too few.

        If others run, a block is left for each that may still grow, its own included:
        admitting into the last block would only preempt it again.

        Args:
            hits: those at its start that the prefix cache has.
            running: the rows of the batch.
        """
        pool = self._pool
        fresh = self._needed(sequence) - len(hits)
        idle_hits = sum(1 for block in hits if pool.ref_count(block) == 0)
        if pool.num_free < idle_hits + fresh + self._reserve(sequence, running):
            return False
        for block in hits:
            pool.acquire(block)
        sequence.block_table = hits + pool.allocate(fresh)
        sequence.num_computed = len(hits) * pool.block_size
        sequence.num_published = len(hits)
        if sequence.num_preemptions == 0:
            sequence.num_cached = min(sequence.num_computed, sequence.prompt_len)
        return True

    def grow(self, sequence: EngineSequence) -> bool:
        """Give a row the block of its newest token; False if there is none."""
        more = self._needed(sequence) - len(sequence.block_table)
        if more > self._pool.num_free:
            return False
        sequence.block_table += self._pool.allocate(more)
        return True

    def release(self, sequence: EngineSequence) -> None:
        """Take a sequence's blocks back."""
        self._pool.release(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed = 0
        sequence.num_published = 0

    def _needed(self, sequence: EngineSequence) -> int:
        """Return the blocks of all tokens of a sequence."""
        return self._pool.blocks_for(sequence.num_tokens)

    def _held(self, sequence: EngineSequence) -> int:
        """Return the blocks of a sequence that no other one holds."""
        return sum(self._pool.ref_count(block) == 1 for block in sequence.block_table)

    def _reserve(self, sequence: EngineSequence, running: Sequence[EngineSequence]) -> int:
        """Return the blocks to be left when a sequence enters the batch."""
        if not running:
            return 0
        own = self._pool.blocks_for(sequence.max_len - 1) > self._needed(sequence)
        return own + sum(self._may_grow(other) for other in running)

    def _may_grow(self, sequence: EngineSequence) -> bool:
        return self._pool.blocks_for(sequence.max_len - 1) > len(sequence.block_table)
