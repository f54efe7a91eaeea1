import pytest

from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.prefixes import PrefixCache, block_key
from tests.support.kv_model import used_blocks

TOKENS = list(range(12))


def cached(namespace: str = "ns", tokens: list[int] = TOKENS) -> tuple[BlockPool, PrefixCache]:
    """Make a cache of three published blocks of four tokens that no one holds."""
    pool = BlockPool(8, 4)
    cache = PrefixCache(pool)
    table = pool.allocate(3)
    cache.publish(namespace, tokens, table, [], start=0, stop=3)
    pool.release(table)
    return pool, cache


@pytest.mark.parametrize(
    ("tokens", "blocks"),
    [
        ([], 0),
        ([0], 0),
        (TOKENS[:4], 0),  # all tokens are never matched
        (TOKENS[:5], 1),
        (TOKENS[:8], 1),
        (TOKENS, 2),
        ([*TOKENS, 99], 3),
        ([*TOKENS, 99, 98, 97, 96, 95], 3),
        ([*TOKENS[:4], 99, *TOKENS[5:], 1], 1),  # a run ends at the first difference
        ([99, *TOKENS[1:], 1], 0),
    ],
)
def test_matches_the_longest_run_of_full_blocks(tokens: list[int], blocks: int) -> None:
    _, cache = cached()
    assert cache.match("ns", tokens) == [0, 1, 2][:blocks]


def test_another_namespace_never_matches() -> None:
    _, cache = cached()
    assert cache.match("other", [*TOKENS, 1]) == []


def test_a_later_block_does_not_match_under_another_parent() -> None:
    _, cache = cached()
    assert cache.match("ns", [*TOKENS[4:], 1, 1, 1, 1, 1]) == []


def test_a_match_takes_no_holder() -> None:
    pool, cache = cached()
    cache.match("ns", [*TOKENS, 1])
    assert (used_blocks(pool), pool.num_cached) == (0, 3)


def test_off_finds_and_publishes_nothing() -> None:
    pool = BlockPool(4, 4)
    cache = PrefixCache(pool, enabled=False)
    table = pool.allocate(3)
    keys: list[str] = []
    cache.publish("ns", TOKENS, table, keys, start=0, stop=3)
    pool.release(table)
    assert cache.match("ns", [*TOKENS, 1], keys) == []
    assert (keys, pool.num_cached) == ([], 0)


def test_keys_given_are_kept_and_extended() -> None:
    _, cache = cached()
    keys: list[str] = []
    cache.match("ns", [*TOKENS, 1], keys)
    assert keys == [
        block_key("ns", None, TOKENS[:4]),
        block_key("ns", keys[0], TOKENS[4:8]),
        block_key("ns", keys[1], TOKENS[8:12]),
    ]
    before = list(keys)
    assert cache.match("ns", [*TOKENS, *TOKENS], keys) == [0, 1, 2]
    assert keys[:3] == before
    assert len(keys) == 4  # the first block that misses is hashed too


def test_every_part_is_in_the_key() -> None:
    keys = {
        block_key("a", None, [1, 2]),
        block_key("b", None, [1, 2]),
        block_key("a", "", [1, 2]),  # no parent is not an empty parent
        block_key("a", "b", [1, 2]),
        block_key("ab", "", [1, 2]),
        block_key("b", "a", [1, 2]),
        block_key("a", None, [2, 1]),
        block_key("a", None, [1, 2, 0]),
        block_key("a", None, [258]),
    }
    assert len(keys) == 9
