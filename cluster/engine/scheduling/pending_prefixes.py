"""Prompt blocks that running sequences are about to publish.

A burst of prompts with a common start needs that start computed once. The sequence that computes it
is the block's owner; others that need the same block next can wait until it is published. An owner
is always in the batch, where it advances; when it leaves, its blocks are forgotten.
"""

from collections.abc import Iterable, Sequence

from cluster.domain.ids import RequestId
from cluster.errors import IntegrityError


class PendingPrefixes:
    """Block keys (see ``cluster.engine.scheduling.prefix_cache``) by who computes them."""

    def __init__(self) -> None:
        self._owners: dict[str, RequestId] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def announce(self, owner: RequestId, keys: Iterable[str]) -> None:
        """``owner`` is about to compute these blocks; those that have an owner keep it."""
        for key in keys:
            self._owners.setdefault(key, owner)

    def is_pending(self, key: str) -> bool:
        """Whether somebody is about to publish this block."""
        return key in self._owners

    def published(self, keys: Sequence[str]) -> list[str]:
        """These blocks are there now, whoever computed them; those that were pending."""
        return [key for key in keys if self._owners.pop(key, None) is not None]

    def forget(self, owner: RequestId, keys: Iterable[str]) -> list[str]:
        """``owner`` leaves the batch; those of ``keys`` that were its own."""
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
