"""Highest-random-weight hashing: everyone who knows the same replicas ranks them alike.

When a replica leaves, only what it held moves (Thaler and Ravishankar, 1998). The hash is
blake2b, so the order is the same in every process and version.
"""

import heapq
from collections.abc import Iterable
from hashlib import blake2b

from cluster.domain.ids import AdapterDigest, ReplicaId


def weight(key: str, replica_id: ReplicaId) -> int:
    """Return the 64-bit weight of a replica for a key."""
    encoded = key.encode()
    hasher = blake2b(len(encoded).to_bytes(4, "little"), digest_size=8)
    hasher.update(encoded)
    hasher.update(replica_id.encode())
    return int.from_bytes(hasher.digest(), "little")


def order(key: str, replica_ids: Iterable[ReplicaId]) -> tuple[ReplicaId, ...]:
    """Return replicas by falling weight for the key; the input's order does not matter."""
    return tuple(sorted(replica_ids, key=lambda replica_id: (-weight(key, replica_id), replica_id)))


def first(key: str, replica_ids: Iterable[ReplicaId], count: int) -> tuple[ReplicaId, ...]:
    """Return the beginning of ``order``, sooner than all of it."""
    encoded = key.encode()
    prefix = blake2b(len(encoded).to_bytes(4, "little"), digest_size=8)
    prefix.update(encoded)
    copy, to_int = prefix.copy, int.from_bytes
    weighed = []
    for replica_id in replica_ids:
        hasher = copy()
        hasher.update(replica_id.encode())
        weighed.append((-to_int(hasher.digest(), "little"), replica_id))
    return tuple(replica_id for _, replica_id in heapq.nsmallest(count, weighed))


def mixture_key(digests: Iterable[AdapterDigest]) -> str:
    """Return one key for a set of adapters, whatever their order."""
    return ",".join(sorted(set(digests)))
