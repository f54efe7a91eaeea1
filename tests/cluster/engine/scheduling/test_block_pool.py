import pytest

from cluster.engine.scheduling.block_pool import BlockPool
from cluster.errors import IntegrityError
from tests.support.kv_model import used_blocks
from tests.support.manual_clock import ManualClock


@pytest.mark.parametrize(
    ("num_tokens", "blocks"), [(0, 0), (1, 1), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3)]
)
def test_blocks_for(num_tokens: int, blocks: int) -> None:
    assert BlockPool(8, 4).blocks_for(num_tokens) == blocks


@pytest.mark.parametrize(("num_blocks", "block_size"), [(0, 4), (4, 0), (-1, 4)])
def test_refuses_an_empty_pool(num_blocks: int, block_size: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        BlockPool(num_blocks, block_size)


def test_allocates_all_or_nothing() -> None:
    pool = BlockPool(3, 4)
    pool.allocate(2)
    with pytest.raises(IntegrityError, match="2 blocks asked for, 1 free"):
        pool.allocate(2)
    assert pool.num_free == 1
    pool.check_integrity()


def test_a_block_without_a_key_is_free_after_its_last_holder() -> None:
    pool = BlockPool(2, 4)
    (block,) = pool.allocate(1)
    pool.acquire(block)
    pool.release([block])
    assert (pool.num_free, pool.ref_count(block)) == (1, 1)
    pool.release([block])
    assert (pool.num_free, pool.num_cached, used_blocks(pool)) == (2, 0, 0)


def test_a_published_block_outlives_its_holder() -> None:
    pool = BlockPool(2, 4)
    (block,) = pool.allocate(1)
    assert pool.publish(block, "k")
    pool.release([block])
    assert (pool.num_free, pool.num_cached) == (2, 1)
    assert pool.lookup("k") == block
    pool.acquire(block)
    assert (pool.num_free, pool.num_cached, pool.ref_count(block)) == (1, 0, 1)


def test_cached_blocks_are_reclaimed_last_and_least_recently_released_first() -> None:
    pool = BlockPool(3, 4)
    first, second, third = pool.allocate(3)
    pool.publish(first, "first")
    pool.publish(second, "second")
    pool.release([second])
    pool.release([first])
    pool.release([third])
    assert pool.allocate(1) == [third]
    assert pool.allocate(1) == [second]
    assert pool.lookup("second") is None
    assert pool.lookup("first") == first


def test_a_hit_makes_a_block_recent_again() -> None:
    pool = BlockPool(2, 4)
    first, second = pool.allocate(2)
    pool.publish(first, "first")
    pool.publish(second, "second")
    pool.release([first])
    pool.release([second])
    pool.acquire(first)
    pool.release([first])
    assert pool.allocate(1) == [second]


def test_a_table_s_tail_is_reclaimed_before_its_head() -> None:
    pool = BlockPool(3, 4)
    table = pool.allocate(3)
    for index, block in enumerate(table):
        pool.publish(block, str(index))
    pool.release(table)
    assert pool.allocate(3) == table[::-1]


def test_equal_content_is_published_once() -> None:
    pool = BlockPool(2, 4)
    first, second = pool.allocate(2)
    assert pool.publish(first, "k")
    assert pool.publish(first, "k")
    assert not pool.publish(second, "k")
    pool.release([second])
    assert (pool.num_cached, pool.lookup("k")) == (0, first)


def test_misuse_is_reported_with_numbers() -> None:
    pool = BlockPool(2, 4)
    (block,) = pool.allocate(1)
    pool.publish(block, "k")
    with pytest.raises(IntegrityError, match="has key k, published as other"):
        pool.publish(block, "other")
    pool.release([block])
    with pytest.raises(IntegrityError, match="released with 0 holders, expected at least 1"):
        pool.release([block])
    with pytest.raises(IntegrityError, match="published with 0 holders, expected at least 1"):
        pool.publish(block, "k")
    with pytest.raises(IntegrityError, match="0 holders and no key"):
        pool.acquire(1 - block)


def test_integrity_compares_references_with_holders() -> None:
    pool = BlockPool(3, 4)
    table = pool.allocate(2)
    pool.acquire(table[0])
    pool.check_integrity([table, table[:1]])
    with pytest.raises(IntegrityError, match=f"block {table[0]} counts 2 holders, has 1"):
        pool.check_integrity([table])
    with pytest.raises(IntegrityError, match="counts 0 holders, has 1"):
        pool.check_integrity([table, [table[0], 2]])


def test_integrity_finds_damage() -> None:
    lost = BlockPool(3, 4)
    lost._free.pop()
    with pytest.raises(
        IntegrityError, match=r"free 2 \+ cached 0 \+ used 0 = 2 blocks, expected 3"
    ):
        lost.check_integrity()
    twice = BlockPool(3, 4)
    twice._free[0] = twice._free[1]
    with pytest.raises(IntegrityError, match="2 distinct idle blocks of 3, 0 with holders"):
        twice.check_integrity()
    keyed = BlockPool(3, 4)
    (block,) = keyed.allocate(1)
    keyed.publish(block, "k")
    keyed._block_of["stale"] = block
    with pytest.raises(IntegrityError, match="2 keys name blocks, 1 blocks have keys"):
        keyed.check_integrity()
    nameless = BlockPool(3, 4)
    (block,) = nameless.allocate(1)
    nameless.publish(block, "k")
    nameless.release([block])
    nameless._key_of.clear()
    nameless._block_of.clear()
    with pytest.raises(IntegrityError, match="0 cached blocks have one, expected 1"):
        nameless.check_integrity()


def test_the_age_of_a_prefix_is_the_time_until_it_is_reclaimed():
    clock = ManualClock()
    pool = BlockPool(2, 4, clock)
    for key, seconds in (("a", 30.0), ("b", 10.0)):
        (block,) = pool.allocate(1)
        pool.publish(block, key)
        pool.release([block])
        clock.advance(seconds)
    assert pool.prefix_age_s == 0
    pool.allocate(1)  # reclaims a, released 40 s ago
    assert pool.prefix_age_s == 40
    assert pool.lookup("b") is not None


def test_a_block_that_never_had_a_key_has_no_age():
    clock = ManualClock()
    pool = BlockPool(1, 4, clock)
    for _ in range(3):
        pool.release(pool.allocate(1))
        clock.advance(5)
    assert pool.prefix_age_s == 0
