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

    Blocks that no chain names are in use or idle as well, but never found.

    Args:
        blocks: of the pool.
    """

    def __init__(self, blocks: int, clock: Clock) -> None:
        self._blocks = blocks
        self._clock = clock
        self._held: Counter[BlockName] = Counter()  # by running sequences
        self._computed: set[BlockName] = set()
        self._idle: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """(time of release, blocks) by name, or by the request whose unnamed blocks they are."""
        self._idle_blocks = 0
        self._pending: dict[BlockName, RequestId] = {}  # who computes it
        self._ages = MeanAge()
        self.unnamed = 0  # blocks in use that no chain names

    @property
    def free(self) -> int:
        """Return the blocks that can be handed out, idle ones included."""
        return self._blocks - self.unnamed - len(self._held)

    @property
    def age_s(self) -> float:
        """Return how many seconds a block is remembered; 0 if none was dropped."""
        return self._ages.seconds

    def find(self, names: Sequence[BlockName]) -> int:
        """Return how many of the first blocks are there."""
        computed = self._computed
        for count, name in enumerate(names):
            if name not in computed:
                return count
        return len(names)

    def new_blocks(self, names: Sequence[BlockName], total: int) -> int:
        """Return by how much holding ``names`` among ``total`` blocks lowers ``free``."""
        held = self._held
        return total - sum([name in held for name in names])

    def hold(self, names: Sequence[BlockName]) -> None:
        """Count a holder of each of these blocks, computed or not."""
        held = self._held
        for name in names:
            if name not in held and self._idle.pop(name, None) is not None:
                self._idle_blocks -= 1
            held[name] += 1

    def release(self, owner: RequestId, names: Sequence[BlockName], unnamed: int) -> None:
        """Drop a holder of each block, and idle the unnamed ones: what comes last goes first.

        Args:
            unnamed: blocks that were full and computed.
        """
        now = self._clock.monotonic()
        if unnamed > 0:
            _, before = self._idle.pop(owner, (now, 0))  # of an earlier release: among these
            self._idle[owner] = now, unnamed
            self._idle_blocks += unnamed - before
        held = self._held
        for name in reversed(names):
            held[name] -= 1
            if held[name] == 0:
                del held[name]
                if name in self._computed:
                    self._idle[name] = now, 1
                    self._idle_blocks += 1

    def idle_of(self, owner: RequestId) -> int:
        """Return how many unnamed blocks are left of those that ``owner`` released, its first."""
        return self._idle.get(owner, (0.0, 0))[1]

    def reuse(self, owner: RequestId, blocks: int) -> None:
        """Take the first of the unnamed blocks that ``owner`` released out of those idle."""
        released, there = self._idle[owner]
        self._idle_blocks -= blocks
        if there > blocks:
            self._idle[owner] = released, there - blocks
        else:
            del self._idle[owner]

    def make_room(self) -> None:
        """Forget idle blocks, least recently released first, where others take their room."""
        excess = self._idle_blocks - (self._blocks - self.unnamed - len(self._held))
        if excess <= 0:
            return
        now = self._clock.monotonic()
        while excess > 0:
            name, (released, blocks) = self._idle.popitem(last=False)
            dropped = min(blocks, excess)
            self._ages.observe(now - released, dropped)
            if dropped < blocks:
                self._idle[name] = released, blocks - dropped
                self._idle.move_to_end(name, last=False)
            self._computed.discard(name)
            self._idle_blocks -= dropped
            excess -= dropped

    # Blocks on their way

    def announce(self, owner: RequestId, names: Sequence[BlockName]) -> None:
        """Note that ``owner`` will compute these blocks; those that have an owner keep it."""
        for name in names:
            self._pending.setdefault(name, owner)

    def find_awaited(self, names: Sequence[BlockName]) -> BlockName | None:
        """Return the last of the first blocks that are being computed, or None."""
        awaited = None
        for name in names:
            if name not in self._pending:
                break
            awaited = name
        return awaited

    def publish(self, names: Sequence[BlockName]) -> list[BlockName]:
        """Note that these blocks, which are held, are computed; return those that were pending."""
        self._computed.update(names)
        return [name for name in names if self._pending.pop(name, None) is not None]

    def withdraw(self, owner: RequestId, names: Sequence[BlockName]) -> list[BlockName]:
        """Note that ``owner`` computes no more; return those of ``names`` that were its own."""
        gone = [name for name in names if self._pending.get(name) == owner]
        for name in gone:
            del self._pending[name]
        return gone
