"""The block pool against a naive model, and prefix matching against a set of prefixes."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.prefixes import PrefixCache
from tests.support.kv_model import used_blocks

NUM_BLOCKS = 6
KEYS = st.sampled_from("abcdefgh")


class BlockPoolMachine(RuleBasedStateMachine):
    """The model: the tables of all holders, each block's key, and idle keyed blocks by age."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS, 4)
        self.tables: list[list[int]] = []
        self.keys: dict[int, str] = {}
        self.cached: list[int] = []  # oldest release first

    def holders(self, block: int) -> int:
        return sum(table.count(block) for table in self.tables)

    def free(self) -> set[int]:
        idle = {block for block in range(NUM_BLOCKS) if self.holders(block) == 0}
        return idle - set(self.cached)

    @rule(data=st.data())
    def allocate(self, data: st.DataObject) -> None:
        free = self.free()
        count = data.draw(st.integers(0, len(free) + len(self.cached)))
        blocks = self.pool.allocate(count)
        from_free = min(count, len(free))
        assert set(blocks[:from_free]) <= free
        assert blocks[from_free:] == self.cached[: count - from_free]
        for block in blocks[from_free:]:
            del self.keys[block]
        self.cached = self.cached[count - from_free :]
        self.tables.append(blocks)

    @precondition(lambda self: any(self.tables))
    @rule(data=st.data(), key=KEYS)
    def publish(self, data: st.DataObject, key: str) -> None:
        nameless = sorted({b for table in self.tables for b in table} - self.keys.keys())
        if not nameless:
            return
        block = data.draw(st.sampled_from(nameless))
        new = key not in self.keys.values()
        assert self.pool.publish(block, key) is new
        if new:
            self.keys[block] = key

    @rule(key=KEYS)
    def hit(self, key: str) -> None:
        block = self.pool.lookup(key)
        assert block == next((b for b, name in self.keys.items() if name == key), None)
        if block is None:
            return
        self.pool.acquire(block)
        if block in self.cached:
            self.cached.remove(block)
        self.tables.append([block])

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        self.pool.release(table)
        for block in reversed(table):
            if self.holders(block) == 0 and block in self.keys:
                self.cached.append(block)

    @invariant()
    def agrees(self) -> None:
        self.pool.check_integrity(self.tables)
        assert self.pool.num_cached == len(self.cached)
        assert self.pool.num_free == len(self.free()) + len(self.cached)
        assert used_blocks(self.pool) == NUM_BLOCKS - self.pool.num_free
        for block in range(NUM_BLOCKS):
            assert self.pool.ref_count(block) == self.holders(block)


BlockPoolMachine.TestCase.settings = settings(
    max_examples=50, stateful_step_count=40, deadline=None
)
TestBlockPool = BlockPoolMachine.TestCase

NAMESPACES = st.sampled_from(("x", "y"))
TOKENS = st.lists(st.integers(0, 1), max_size=12)


@settings(max_examples=100, deadline=None)
@given(
    published=st.lists(st.tuples(NAMESPACES, TOKENS), max_size=6),
    asked=st.lists(st.tuples(NAMESPACES, TOKENS), min_size=1, max_size=6),
    size=st.integers(1, 4),
)
def test_match_equals_a_search_among_whole_prefixes(
    published: list[tuple[str, list[int]]], asked: list[tuple[str, list[int]]], size: int
) -> None:
    pool = BlockPool(128, size)
    cache = PrefixCache(pool)
    content: dict[int, tuple[str, tuple[int, ...]]] = {}  # block -> (namespace, prefix to its end)
    for namespace, tokens in published:
        full = len(tokens) // size
        table = pool.allocate(full)
        cache.publish(namespace, tokens, table, [], start=0, stop=full)
        for index, block in enumerate(table):
            prefix = (namespace, tuple(tokens[: (index + 1) * size]))
            if prefix not in content.values():
                content[block] = prefix
    for namespace, tokens in asked:
        run = []
        for end in range(size, len(tokens), size):
            prefix = (namespace, tuple(tokens[:end]))
            if prefix not in content.values():
                break
            run.append(prefix)
        assert [content[block] for block in cache.match(namespace, tokens)] == run
