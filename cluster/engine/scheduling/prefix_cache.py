"""Prefixes found again by content: docs/decisions/0001.

A block's key is a hash chained over (namespace, parent block's key, the block's token ids). The
namespace names everything but tokens that the block's keys and values are functions of (base,
adapters, weights, tenant), and it is in every block's key. Hence equal keys mean equal content.
"""

import struct
from collections.abc import Sequence

from cluster.domain.decision import tagged_digest
from cluster.engine.scheduling.block_pool import BlockPool


def block_key(namespace: str, parent: str | None, token_ids: Sequence[int]) -> str:
    """Name of the content of a full block.

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
        """Blocks of the longest cached run from the start of ``token_ids``.

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
        """Most blocks that ``match`` finds for a sequence of so many tokens."""
        return (num_tokens - 1) // self._pool.block_size

    def name(self, namespace: str, token_ids: Sequence[int], keys: list[str], count: int) -> None:
        """Extend ``keys`` in place to those of at least the first ``count`` full blocks."""
        size = self._pool.block_size
        for index in range(len(keys), count):
            parent = keys[index - 1] if index else None
            keys.append(block_key(namespace, parent, token_ids[index * size : (index + 1) * size]))
