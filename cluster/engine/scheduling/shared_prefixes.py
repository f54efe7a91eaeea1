"""Prompt starts computed once: what is in the prefix cache, and what soon will be.

All here concerns full blocks of sequences. A sequence whose next block another one is computing
does well to wait for it; who computes a block is in the batch, so it advances or leaves.
"""

from collections.abc import Iterable

from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.pending_prefixes import PendingPrefixes
from cluster.engine.scheduling.prefix_cache import PrefixCache
from cluster.engine.sequence import Sequence
from cluster.engine.spans import block_namespace


class SharedPrefixes:
    """The prefix cache and the pending blocks of one scheduler.

    When it is off it finds, awaits and publishes nothing, and no hash is computed.
    """

    def __init__(self, pool: BlockPool, *, enabled: bool) -> None:
        self._pool = pool
        self._cache = PrefixCache(pool, enabled=enabled)
        self._pending = PendingPrefixes()

    def find(self, sequence: Sequence) -> list[int]:
        """Blocks at the start of a waiting sequence whose content is in the cache."""
        if sequence.needs_every_row:
            return []
        if len(sequence.spans) > 1:
            self._name(sequence, self._cache.matchable(sequence.num_tokens))
        return self._cache.match(sequence.namespace, sequence.token_ids, sequence.block_keys)

    def awaited(self, sequence: Sequence, cached: int) -> str | None:
        """Key of the last of those blocks, from the first not cached, that others are computing."""
        if sequence.needs_every_row or not self._cache.enabled:
            return None
        awaited = None
        for index in range(cached, self._cache.matchable(sequence.num_tokens)):
            (key,) = self._keys(sequence, index, index + 1)
            if not self._pending.is_pending(key):
                break
            awaited = key
        return awaited

    def announce(self, sequence: Sequence) -> None:
        """A sequence enters the batch and will compute all its tokens."""
        if self._cache.enabled:
            full = sequence.num_tokens // self._pool.block_size
            keys = self._keys(sequence, sequence.num_published, full)
            self._pending.announce(sequence.request_id, keys)

    def publish(self, sequence: Sequence) -> list[str]:
        """Make what a sequence has computed findable; those keys that were pending."""
        start, stop = sequence.num_published, sequence.num_computed // self._pool.block_size
        if stop <= start:
            return []
        self._name(sequence, stop)
        self._cache.publish(
            sequence.namespace,
            sequence.token_ids,
            sequence.block_table,
            sequence.block_keys,
            start=start,
            stop=stop,
        )
        sequence.num_published = stop
        return self._pending.published(sequence.block_keys[start:stop])

    def forget(self, sequence: Sequence) -> list[str]:
        """A sequence leaves the batch; the keys of what it has not computed."""
        left = sequence.block_keys[sequence.num_published :]
        return self._pending.forget(sequence.request_id, left)

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Check that every pending block has a running sequence that computes it.

        Raises:
            IntegrityError: with both numbers.
        """
        self._pending.check_integrity(
            (sequence.request_id, sequence.block_keys[sequence.num_published :])
            for sequence in running
        )

    def _keys(self, sequence: Sequence, start: int, stop: int) -> list[str]:
        self._name(sequence, stop)
        return sequence.block_keys[start:stop]

    def _name(self, sequence: Sequence, count: int) -> None:
        """Extend the sequence's keys to those of its first ``count`` blocks, each by what its
        tokens are computed with."""
        if not self._cache.enabled:
            return
        keys, tokens, size = sequence.block_keys, sequence.token_ids, self._pool.block_size
        if len(sequence.spans) == 1:
            self._cache.name(sequence.namespace, tokens, keys, count)
            return
        for index in range(len(keys), count):
            namespace = block_namespace(sequence.spans, index * size, (index + 1) * size)
            self._cache.name(namespace, tokens, keys, index + 1)
