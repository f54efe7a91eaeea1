"""Remembers which replica last computed the beginning of a prompt.

An estimate of the replicas' prefix caches, from this front's own requests alone.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from cluster.domain.ids import ReplicaId

LENGTHS = (64, 256, 1024, 4096)
"""Tokens of a prompt's beginnings."""
MOST_KEPT = 65_536


def prefix_keys(namespace: int, token_ids: Sequence[int]) -> tuple[int, ...]:
    """Return a key for each of ``LENGTHS`` that a prompt reaches.

    Args:
        namespace: stands for all but the tokens that its KV blocks depend on.

    Keys mean something within one process only. Two prompts with one key would cost a detour.
    """
    tokens = tuple(token_ids)
    return tuple(hash((namespace, tokens[:n])) for n in LENGTHS if n <= len(tokens))


class _Place(NamedTuple):
    replica_id: ReplicaId
    at: float  # monotonic seconds


class PrefixAffinity:
    """The last replica of each beginning, the least recently used forgotten first."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._most = most
        self._places: OrderedDict[int, _Place] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def note(self, keys: Sequence[int], replica_id: ReplicaId, now: float) -> None:
        """Note that a replica will have computed the beginnings with these keys."""
        places = self._places
        for key in keys:
            places[key] = _Place(replica_id, now)
            places.move_to_end(key)
        while len(places) > self._most:
            places.popitem(last=False)

    def cached(self, keys: Sequence[int]) -> dict[ReplicaId, tuple[int, float]]:
        """Return the tokens of the longest beginning at each replica, and since when."""
        found: dict[ReplicaId, tuple[int, float]] = {}
        for key, length in zip(keys, LENGTHS, strict=False):
            place = self._places.get(key)
            if place is not None:
                found[place.replica_id] = length, place.at
        return found
