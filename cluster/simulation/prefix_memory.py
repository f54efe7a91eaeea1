"""A prefix cache without tokens, for the fast engine: which chains of blocks are in memory."""

from collections import Counter, OrderedDict
from collections.abc import Sequence

from cluster.clock import Clock
from cluster.domain.ids import RequestId
from cluster.mean_age import MeanAge

BlockName = str
"""A KV namespace and the chained hash of a block."""


class PrefixMemory:
    """Remembers named blocks: those in use, and others until their room is needed.

    Args:
        blocks: of the pool. Unnamed ones in use are the caller's to count.
    """

    def __init__(self, blocks: int, clock: Clock) -> None:
        self._blocks = blocks
        self._clock = clock
        self._held: Counter[BlockName] = Counter()  # by running sequences
        self._there: OrderedDict[BlockName, float] = OrderedDict()  # computed; time of last release
        self._idle = 0  # of ``_there``, those not held
        self._ages = MeanAge()
        self._pending: dict[BlockName, RequestId] = {}  # who computes it
        self.unnamed = 0  # blocks in use that no chain names

    @property
    def free(self) -> int:
        """Return the blocks that can be handed out, those that are only remembered included."""
        return self._blocks - self.unnamed - len(self._held)

    @property
    def age_s(self) -> float:
        """Return for how long blocks are remembered lately; 0 if none was dropped."""
        return self._ages.seconds

    def find(self, names: Sequence[BlockName]) -> int:
        """Return how many of the first blocks are there."""
        there = self._there
        for count, name in enumerate(names):
            if name not in there:
                return count
        return len(names)

    def new_blocks(self, names: Sequence[BlockName], total: int) -> int:
        """Return by how much holding ``names`` among ``total`` blocks lowers ``free``."""
        held = self._held
        return total - sum(1 for name in names if name in held)

    def hold(self, names: Sequence[BlockName]) -> None:
        """Count a holder of each of these blocks, computed or not."""
        held = self._held
        for name in names:
            held[name] += 1
            if held[name] == 1 and name in self._there:
                self._idle -= 1

    def announce(self, owner: RequestId, names: Sequence[BlockName]) -> None:
        """Note that ``owner`` will compute these blocks; those that have an owner keep it."""
        for name in names:
            self._pending.setdefault(name, owner)

    def find_awaited(self, names: Sequence[BlockName]) -> BlockName | None:
        """Return the last of the first blocks that somebody is computing, or None."""
        awaited = None
        for name in names:
            if name not in self._pending:
                break
            awaited = name
        return awaited

    def publish(self, names: Sequence[BlockName]) -> list[BlockName]:
        """Note that these blocks, which are held, are computed; return those that were pending."""
        now = self._clock.monotonic()
        for name in names:
            self._there[name] = now
        return [name for name in names if self._pending.pop(name, None) is not None]

    def withdraw(self, owner: RequestId, names: Sequence[BlockName]) -> list[BlockName]:
        """Note that ``owner`` computes no more; return those of ``names`` that were its own."""
        gone = [name for name in names if self._pending.get(name) == owner]
        for name in gone:
            del self._pending[name]
        return gone

    def release(self, names: Sequence[BlockName]) -> None:
        """Drop one holder of each block, the last block first."""
        now = self._clock.monotonic()
        held, there = self._held, self._there
        for name in reversed(names):
            held[name] -= 1
            if held[name] == 0:
                del held[name]
                if name in there:
                    there[name] = now
                    there.move_to_end(name)
                    self._idle += 1

    def make_room(self) -> None:
        """Forget idle blocks, least recently released first, where others take their room."""
        excess = self._idle - self.free
        if excess <= 0:
            return
        now = self._clock.monotonic()
        for name in [n for n in self._there if n not in self._held][:excess]:
            self._ages.observe(now - self._there.pop(name))
            self._idle -= 1
