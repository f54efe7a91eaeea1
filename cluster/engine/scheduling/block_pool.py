"""KV blocks of one replica: their holders, and what the free ones still contain.

A block is in exactly one of three states:

| state  | holders | key    | how it leaves                                  |
|--------|---------|--------|------------------------------------------------|
| free   | 0       | none   | ``allocate``                                   |
| cached | 0       | a key  | ``acquire`` (a hit) or ``allocate`` (reclaimed) |
| used   | >= 1    | either | ``release`` by its last holder                 |

The pool knows ids, not tensors: a block's keys and values lie at its index in the KV cache.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from cluster.clock import Clock
from cluster.errors import IntegrityError
from cluster.mean_age import MeanAge


class BlockPool:
    """``num_blocks`` blocks of ``block_size`` tokens, counted by reference.

    Blocks that have no holder but whose content has a key are kept for reuse and reclaimed, least
    recently released first, only when no other block is free.

    Args:
        clock: tells how long they are kept; None: ``prefix_age_s`` stays 0.
    """

    def __init__(self, num_blocks: int, block_size: int, clock: Clock | None = None) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"need at least one block and token: {num_blocks=}, {block_size=}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._refs = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))  # a stack: block 0 goes first
        self._clock = clock
        self._ages = MeanAge()
        self._cached: OrderedDict[int, float] = OrderedDict()  # when released, oldest first
        self._key_of: dict[int, str] = {}
        self._block_of: dict[str, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that ``allocate`` can hand out, reclaimable ones included."""
        return len(self._free) + len(self._cached)

    @property
    def num_cached(self) -> int:
        """Blocks without a holder that are kept for reuse."""
        return len(self._cached)

    @property
    def prefix_age_s(self) -> float:
        """Mean time from a cached block's release until it is reclaimed; 0 if none ever was."""
        return self._ages.seconds

    def blocks_for(self, num_tokens: int) -> int:
        """Return the number of blocks that ``num_tokens`` tokens occupy."""
        return -(-num_tokens // self.block_size)

    def ref_count(self, block: int) -> int:
        """Return how many holders a block has."""
        return self._refs[block]

    def allocate(self, count: int) -> list[int]:
        """Hand out ``count`` blocks with one holder each and no key; all of them or none.

        Raises:
            IntegrityError: fewer than ``count`` are free; callers look at ``num_free`` first.
        """
        if count > self.num_free:
            raise IntegrityError(f"{count} blocks asked for, {self.num_free} free")
        return [self._take() for _ in range(count)]

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, released = self._cached.popitem(last=False)
            self._ages.observe(self._now() - released)
            del self._block_of[self._key_of.pop(block)]
        self._refs[block] = 1
        return block

    def _now(self) -> float:
        return 0.0 if self._clock is None else self._clock.monotonic()

    def acquire(self, block: int) -> None:
        """Add a holder to a used or cached block.

        Raises:
            IntegrityError: the block is free, so its content has no owner.
        """
        if self._refs[block] == 0:
            if block not in self._cached:
                raise IntegrityError(f"block {block} has 0 holders and no key; it cannot be shared")
            del self._cached[block]
        self._refs[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one holder of each block of a block table.

        The table's tail is released first: a block is useless to a later match without those
        before it, so the tail should be reclaimed first.

        Raises:
            IntegrityError: a block has no holder.
        """
        now = self._now()
        for block in reversed(blocks):
            if self._refs[block] == 0:
                raise IntegrityError(f"block {block} released with 0 holders, expected at least 1")
            self._refs[block] -= 1
            if self._refs[block] == 0:
                if block in self._key_of:
                    self._cached[block] = now
                else:
                    self._free.append(block)

    def publish(self, block: int, key: str) -> bool:
        """Name the content of a used block, so that ``lookup`` finds it.

        Returns False, and changes nothing, when another block already has this content.

        Raises:
            IntegrityError: the block has no holder, or already another key.
        """
        if self._refs[block] == 0:
            raise IntegrityError(f"block {block} published with 0 holders, expected at least 1")
        present = self._key_of.get(block)
        if present is not None and present != key:
            raise IntegrityError(f"block {block} has key {present}, published as {key}")
        if self._block_of.setdefault(key, block) != block:
            return False
        self._key_of[block] = key
        return True

    def lookup(self, key: str) -> int | None:
        """Return the block with this content, or None. It gains no holder by being looked up."""
        return self._block_of.get(key)

    def check_integrity(self, holders: Iterable[Iterable[int]] | None = None) -> None:
        """Check that free + cached + used = total and that keys and blocks agree.

        Args:
            holders: every block table there is; when given, references must equal holders.

        Raises:
            IntegrityError: with both numbers.
        """
        used = sum(1 for refs in self._refs if refs > 0)
        total = len(self._free) + len(self._cached) + used
        if total != self.num_blocks:
            raise IntegrityError(
                f"free {len(self._free)} + cached {len(self._cached)} + used {used} = {total} "
                f"blocks, expected {self.num_blocks}"
            )
        idle = set(self._free) | set(self._cached)
        held_idle = sum(1 for block in idle if self._refs[block] > 0)
        if held_idle or len(idle) != len(self._free) + len(self._cached):
            raise IntegrityError(
                f"{len(idle)} distinct idle blocks of {self.num_free}, {held_idle} with holders"
            )
        if {block: key for key, block in self._block_of.items()} != self._key_of:
            raise IntegrityError(
                f"{len(self._block_of)} keys name blocks, {len(self._key_of)} blocks have keys"
            )
        keyed_free = sum(1 for block in self._free if block in self._key_of)
        keyed_cached = sum(1 for block in self._cached if block in self._key_of)
        if keyed_free or keyed_cached != len(self._cached):
            raise IntegrityError(
                f"{keyed_free} free blocks have a key, expected 0; "
                f"{keyed_cached} cached blocks have one, expected {len(self._cached)}"
            )
        if holders is None:
            return
        held = Counter(block for table in holders for block in table)
        for block, refs in enumerate(self._refs):
            if held[block] != refs:
                raise IntegrityError(f"block {block} counts {refs} holders, has {held[block]}")
