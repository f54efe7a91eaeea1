"""Rendezvous order, and the homes that are kept from it."""

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from cluster.placement.picking.homes import COUNT, Homes
from cluster.placement.rendezvous import first, order, weight


def test_rendezvous_order_is_fixed_for_all_time() -> None:
    assert weight("sql", "r1") == 14924642453130344206
    assert order("sql", ["r0", "r1", "r2", "r3"]) == order("sql", ["r3", "r1", "r0", "r2"])


def test_without_one_replica_the_others_keep_their_order() -> None:
    for key in map(str, range(50)):
        ranked = order(key, ["r0", "r1", "r2", "r3"])
        assert order(key, ["r0", "r1", "r3"]) == tuple(r for r in ranked if r != "r2")


def test_rendezvous_spreads() -> None:
    found = [order(str(key), ["r0", "r1", "r2", "r3"])[0] for key in range(4000)]
    assert all(850 < found.count(f"r{i}") < 1150 for i in range(4))


def test_the_beginning_of_an_order_is_the_orders() -> None:
    names = [f"r{n}" for n in range(30)]
    for key in ("", "sql", "sql,json"):
        assert first(key, names, 3) == order(key, names)[:3]
    assert first("sql", ["r1"], 3) == ("r1",)
    assert first("sql", [], 3) == ()


STEPS = st.tuples(st.sampled_from(["join", "leave", "ask"]), st.integers(0, 30), st.integers(0, 3))


@given(st.lists(STEPS, max_size=60), st.sampled_from([3, 256]))
def test_kept_homes_are_those_of_the_replicas_that_are_there(steps, most: int) -> None:
    homes, there = Homes(), set()
    with patch("cluster.placement.picking.homes._MOST_JOINED", most):
        for what, replica, key in steps:
            name = f"r{replica}"
            if what == "join" and name not in there:
                homes.join(name)
                there.add(name)
            elif what == "leave":
                homes.leave(name)
                there.discard(name)
            assert homes.of(str(key)) == order(str(key), there)[:COUNT]
