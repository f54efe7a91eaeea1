"""The pool's rules that are easiest to see one at a time; the rest is in tests/properties."""

import pytest

from cluster.adapters.residency.pool import AdapterPool
from cluster.adapters.residency.residency_types import Admitted, MustEvict, SizedVersion
from cluster.domain.ids import AdapterDigest
from cluster.errors import AdapterLoadFailed, IntegrityError
from tests.support.manual_clock import ManualClock


@pytest.fixture
def pool():
    return AdapterPool(2, 1000, 30.0, ManualClock())


def candidate(name, nbytes=10):
    return SizedVersion(AdapterDigest(name), name, 8, nbytes)


def use(pool, name, nbytes=10):
    """Admit, load and release; the names evicted for it."""
    answer = pool.admit([candidate(name, nbytes)])
    victims = ()
    if isinstance(answer, MustEvict):
        victims = answer.victims
        for victim in victims:
            pool.evicted(victim)
        answer = pool.admit([candidate(name, nbytes)])
    assert isinstance(answer, Admitted)
    for digest in answer.start:
        pool.fetched(digest)
        pool.writing(digest)
        pool.loaded(digest, nbytes)
    pool.release_lease(answer.lease.id)
    return victims


def test_equal_costs_leave_eviction_order_of_last_use(pool):
    assert [use(pool, name) for name in "abacb"] == [(), (), (), ("b",), ("a",)]


def test_costly_adapters_stay_longer_but_not_for_ever(pool):
    use(pool, "costly", 30)
    evicted = [use(pool, name) for name in "abcdefg"]
    gone = [victim for victims in evicted for victim in victims]
    assert gone[:2] == ["a", "b"]
    assert "costly" in gone


def test_a_transition_outside_the_table_is_a_defect(pool):
    with pytest.raises(IntegrityError, match="not here"):
        pool.fetched(AdapterDigest("a"))
    pool.admit([candidate("a")])
    with pytest.raises(IntegrityError, match="no transition from fetching to loading"):
        pool.writing(AdapterDigest("a"))
    with pytest.raises(IntegrityError, match="1 leases open"):
        pool.failed(AdapterDigest("a"), AdapterLoadFailed("x"))
    pool.check_integrity()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda pool: pool._ledger._free.pop(), "slots"),
        (lambda pool: setattr(pool._ledger, "bytes_used", 11), "found 10, expected 11"),
        (lambda pool: pool._ledger._claims.clear(), "claims on a: found 1, expected 0"),
        (
            lambda pool: pool._ledger._claims.update({9: ("t", frozenset({"z"}))}),
            "claimed but not here",
        ),
    ],
)
def test_integrity_names_both_numbers(pool, spoil, says):
    pool.admit([candidate("a")])
    pool.check_integrity()
    spoil(pool)
    with pytest.raises(IntegrityError, match=says):
        pool.check_integrity()
