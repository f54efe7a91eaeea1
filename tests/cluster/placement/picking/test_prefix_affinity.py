"""Tests the memory of which replica computed the beginning of a prompt last."""

from cluster.placement.picking.prefix_affinity import LENGTHS, PrefixAffinity, prefix_keys


def test_a_key_for_each_length_that_the_prompt_reaches() -> None:
    assert prefix_keys(1, range(63)) == ()
    assert len(prefix_keys(1, range(64))) == 1
    assert len(prefix_keys(1, range(5000))) == len(LENGTHS)


def test_prompts_share_the_keys_of_what_they_share() -> None:
    one = prefix_keys(1, [*range(300), 7])
    other = prefix_keys(1, [*range(256), *range(900, 1000)])
    assert one[:2] == other[:2]
    assert prefix_keys(1, [*range(65)]) != prefix_keys(2, [*range(65)])
    assert prefix_keys(1, [9, *range(64)])[0] != one[0]
    assert prefix_keys(1, list(range(64))) == prefix_keys(1, tuple(range(64)))


def test_the_longest_beginning_at_each_replica_is_found() -> None:
    places = PrefixAffinity()
    long, short = prefix_keys(1, range(2000)), prefix_keys(1, range(100))
    places.note(long, "r0", 1.0)
    assert places.cached(long) == {"r0": (1024, 1.0)}
    places.note(short, "r1", 2.0)
    assert places.cached(long) == {"r1": (64, 2.0), "r0": (1024, 1.0)}
    assert places.cached(prefix_keys(2, range(2000))) == {}


def test_the_least_recently_used_are_forgotten() -> None:
    places = PrefixAffinity(most=2)
    keys = [prefix_keys(n, range(64)) for n in range(3)]
    places.note(keys[0], "r0", 1.0)
    places.note(keys[1], "r0", 2.0)
    places.note(keys[0], "r0", 3.0)
    places.note(keys[2], "r0", 4.0)
    assert len(places) == 2
    assert not places.cached(keys[1])
    assert places.cached(keys[0])
