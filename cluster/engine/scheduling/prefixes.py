"""Prompt prefixes computed once: the blocks in the prefix cache, and those on their way into it.

Everything here is about full blocks. A block's key is a hash chained over (namespace, parent
block's key, the block's token ids): docs/decisions/0001. The namespace names everything but tokens
that the block's keys and values are functions of (base, adapters, weights, tenant), and it is in
every block's key. Hence equal keys mean equal content.

A burst of prompts with a common start needs that start computed once. The sequence that computes a
block is its owner; others that need the same block next can wait until it is published. An owner is
always in the batch, where it advances; when it leaves the batch, its pending blocks are withdrawn.
"""

import struct
from collections.abc import Iterable, Sequence

from cluster.domain.decision import tagged_digest
from cluster.domain.ids import RequestId
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.sequence import EngineSequence
from cluster.engine.spans import block_namespace
from cluster.errors import IntegrityError


def block_key(namespace: str, parent: str | None, token_ids: Sequence[int]) -> str:
    """Return the name of the content of a full block.

    Args:
        namespace: ``cluster.domain.decision.kv_namespace`` of the request.
        parent: key of the block before it; None for the first.
        token_ids: the block's tokens, [block_size].
    """
    tokens = struct.pack(f"<{len(token_ids)}q", *token_ids)
    if parent is None:
        return tagged_digest(("namespace", namespace.encode()), ("tokens", tokens))
    return tagged_digest(
        ("namespace", namespace.encode()), ("parent", parent.encode()), ("tokens", tokens)
    )


class PrefixCache:
    """Finds and publishes full blocks in a ``BlockPool``; takes and drops no holders itself.

    When it is off it finds and publishes nothing, and no hash is computed.
    """

    def __init__(self, pool: BlockPool, *, enabled: bool = True) -> None:
        self._pool = pool
        self.enabled = enabled

    def match(
        self, namespace: str, token_ids: Sequence[int], keys: list[str] | None = None
    ) -> list[int]:
        """Return the blocks of the longest cached run from the start of ``token_ids``.

        Only full blocks match, and never all tokens: at least one must be computed, because its
        logits are needed.

        Args:
            namespace: the request's KV namespace.
            token_ids: prompt and whatever else is to be computed, [num_tokens].
            keys: keys of the first full blocks where known already; extended in place, so that
                a request that waits is hashed once.
        """
        if not self.enabled:
            return []
        keys = [] if keys is None else keys
        blocks: list[int] = []
        for index in range(self.matchable(len(token_ids))):
            self.name(namespace, token_ids, keys, index + 1)
            block = self._pool.lookup(keys[index])
            if block is None:
                break
            blocks.append(block)
        return blocks

    def publish(
        self,
        namespace: str,
        token_ids: Sequence[int],
        block_table: Sequence[int],
        keys: list[str],
        *,
        start: int,
        stop: int,
    ) -> None:
        """Make blocks [start, stop) of a block table findable; all must be full and computed.

        A block whose content another block already has stays private to its holder.

        Args:
            namespace: the request's KV namespace.
            token_ids: at least ``stop * block_size`` tokens.
            block_table: the request's blocks in order.
            keys: as for ``match``.
            start: first block of the table to publish.
            stop: one past the last.
        """
        if not self.enabled:
            return
        self.name(namespace, token_ids, keys, stop)
        for index in range(start, stop):
            self._pool.publish(block_table[index], keys[index])

    def matchable(self, num_tokens: int) -> int:
        """Return the most blocks that ``match`` finds for a sequence of so many tokens."""
        return (num_tokens - 1) // self._pool.block_size

    def name(self, namespace: str, token_ids: Sequence[int], keys: list[str], count: int) -> None:
        """Extend ``keys`` in place to those of at least the first ``count`` full blocks."""
        size = self._pool.block_size
        for index in range(len(keys), count):
            parent = keys[index - 1] if index else None
            keys.append(block_key(namespace, parent, token_ids[index * size : (index + 1) * size]))


class PendingPrefixes:
    """Block keys (see ``cluster.engine.scheduling.prefixes``) by who computes them."""

    def __init__(self) -> None:
        self._owners: dict[str, RequestId] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def announce(self, owner: RequestId, keys: Iterable[str]) -> None:
        """Note that ``owner`` will compute these blocks; those that have an owner keep it."""
        for key in keys:
            self._owners.setdefault(key, owner)

    def is_pending(self, key: str) -> bool:
        """Return whether a sequence is about to publish this block."""
        return key in self._owners

    def take_published(self, keys: Sequence[str]) -> list[str]:
        """Note that these blocks are published, by any sequence, and return those that were
        pending."""
        return [key for key in keys if self._owners.pop(key, None) is not None]

    def withdraw(self, owner: RequestId, keys: Iterable[str]) -> list[str]:
        """Note that ``owner`` leaves the batch, and return those of ``keys`` that were its own."""
        gone = [key for key in keys if self._owners.get(key) == owner]
        for key in gone:
            del self._owners[key]
        return gone

    def check_integrity(self, running: Iterable[tuple[RequestId, Sequence[str]]]) -> None:
        """Check that owners run and have yet to publish what they own.

        Args:
            running: each running sequence and the keys of its full blocks not yet published.

        Raises:
            IntegrityError: with both numbers.
        """
        possible = {(key, owner) for owner, keys in running for key in keys}
        owned = set(self._owners.items())
        if not owned <= possible:
            raise IntegrityError(
                f"{len(owned)} blocks are pending, {len(owned - possible)} without a sequence "
                "that computes them, expected 0"
            )


class SharedPrefixes:
    """The prefix cache and the pending blocks of one scheduler.

    When it is off it finds, awaits and publishes nothing, and no hash is computed.
    """

    def __init__(self, pool: BlockPool, *, enabled: bool) -> None:
        self._pool = pool
        self._cache = PrefixCache(pool, enabled=enabled)
        self._pending = PendingPrefixes()

    def find_cached(self, sequence: EngineSequence) -> list[int]:
        """Return the blocks at the start of a waiting sequence whose content is in the cache."""
        if sequence.needs_every_row:
            return []
        if len(sequence.spans) > 1:
            self._name(sequence, self._cache.matchable(sequence.num_tokens))
        return self._cache.match(sequence.namespace, sequence.token_ids, sequence.block_keys)

    def find_awaited(self, sequence: EngineSequence, cached: int) -> str | None:
        """Return the key of the last block, counted from the first not cached, that others are
        computing."""
        if sequence.needs_every_row or not self._cache.enabled:
            return None
        awaited = None
        for index in range(cached, self._cache.matchable(sequence.num_tokens)):
            (key,) = self._keys(sequence, index, index + 1)
            if not self._pending.is_pending(key):
                break
            awaited = key
        return awaited

    def announce_blocks(self, sequence: EngineSequence) -> None:
        """Note that a sequence enters the batch and will compute all its tokens."""
        if self._cache.enabled:
            full = sequence.num_tokens // self._pool.block_size
            keys = self._keys(sequence, sequence.num_published, full)
            self._pending.announce(sequence.request_id, keys)

    def publish_blocks(self, sequence: EngineSequence) -> list[str]:
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
        return self._pending.take_published(sequence.block_keys[start:stop])

    def withdraw_blocks(self, sequence: EngineSequence) -> list[str]:
        """Note that a sequence leaves the batch; return the keys of what it has not computed."""
        left = sequence.block_keys[sequence.num_published :]
        return self._pending.withdraw(sequence.request_id, left)

    def check_integrity(self, running: Iterable[EngineSequence]) -> None:
        """Check that every pending block has a running sequence that computes it.

        Raises:
            IntegrityError: with both numbers.
        """
        self._pending.check_integrity(
            (sequence.request_id, sequence.block_keys[sequence.num_published :])
            for sequence in running
        )

    def _keys(self, sequence: EngineSequence, start: int, stop: int) -> list[str]:
        self._name(sequence, stop)
        return sequence.block_keys[start:stop]

    def _name(self, sequence: EngineSequence, count: int) -> None:
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
