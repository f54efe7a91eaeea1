"""Bounds of how many replicas a plan has an adapter on."""

from collections.abc import Iterable, Mapping

from cluster.domain.ids import AdapterDigest
from cluster.placement.planning.board import Board, Place


class MostCopies:
    """Counts the planned copies of the adapters that rules bound; one owner."""

    def __init__(self, most: Mapping[AdapterDigest, int], board: Board) -> None:
        self._most = most
        self._board = board
        self._planned = dict.fromkeys(most, 0)

    def of(self, members: Iterable[AdapterDigest], otherwise: int | None) -> int | None:
        """Return the most copies of a set: the least bound of its members, or None without one.

        Args:
            otherwise: the bound of an adapter without a rule; None: it has none.
        """
        if not self._most:
            return otherwise
        bounds = [self._most.get(digest, otherwise) for digest in members]
        return min((bound for bound in bounds if bound is not None), default=None)

    def allow(self, members: Iterable[AdapterDigest], place: Place) -> bool:
        """Return whether one more copy of a set may be planned on a replica."""
        return not self._most or all(
            digest in place.assigned or self._planned[digest] < self._most[digest]
            for digest in self._bounded(members)
        )

    def leave_room(self, members: Iterable[AdapterDigest], place: Place) -> bool:
        """Return whether a copy may be planned on a replica as well as all that others have.

        What is there already would have to be given up for it otherwise.
        """
        return not self._most or all(
            len({place.index, *(other.index for other in self._board.holders(digest))})
            <= self._most[digest]
            for digest in self._bounded(members)
        )

    def note(self, members: Iterable[AdapterDigest], place: Place) -> None:
        """Count what is about to be planned on a replica."""
        for digest in self._bounded(members) if self._most else ():
            self._planned[digest] += digest not in place.assigned

    def reached(self, members: Iterable[AdapterDigest]) -> tuple[AdapterDigest, int] | None:
        """Return a member of which all copies are planned that its rule allows, and their number.

        None: all members may have more.
        """
        for digest in self._bounded(members):
            if self._planned[digest] >= self._most[digest]:
                return digest, self._most[digest]
        return None

    def _bounded(self, members: Iterable[AdapterDigest]) -> Iterable[AdapterDigest]:
        return (digest for digest in members if digest in self._most)
