"""Shares of tokens always add up to what was used."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.domain.adapter import SHARED_OWNER, AdapterKey, WeightedAdapter
from cluster.domain.ids import BASE, AdapterDigest, TenantId
from cluster.domain.request import Outcome, Usage
from cluster.errors import IntegrityError
from cluster.tenancy.metering import REMOVED, Meter, TenantUsage, share

WEIGHTS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -0.5, 1.0, 1e-300])
)
TERMS = st.builds(
    lambda name, weight: WeightedAdapter(
        AdapterKey(SHARED_OWNER, name, AdapterDigest(f"digest-{name}")), weight
    ),
    st.sampled_from("abcd"),
    WEIGHTS,
)
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["acme", "globex"]),
        st.sampled_from(list(Outcome)),
        st.one_of(st.none(), st.builds(Usage, st.integers(0, 10**6), st.integers(0, 10**6))),
        st.lists(TERMS, max_size=5),
    ),
    max_size=20,
)


@given(REQUESTS)
def test_shares_reconcile_with_totals(requests):
    meter = Meter()
    for tenant, outcome, usage, mixture in requests:
        meter.record(TenantId(tenant), outcome, usage, mixture)
        meter.check_integrity()
    snapshot = meter.snapshot()
    spent = [usage for _, _, usage, _ in requests if usage is not None]
    assert sum(a.prompt_tokens for a in snapshot.adapters) == sum(u.prompt_tokens for u in spent)
    assert sum(a.completion_tokens for a in snapshot.adapters) == sum(
        u.completion_tokens for u in spent
    )
    assert sum(t.requests for t in snapshot.tenants) == len(requests)
    assert sum(count for _, _, count in snapshot.outcomes) == len(requests)
    assert all(a.prompt_tokens >= 0 and a.completion_tokens >= 0 for a in snapshot.adapters)


FRACTIONS = st.dictionaries(
    st.sampled_from("abcdef").map(AdapterDigest),
    st.integers(0, 70).map(lambda sevenths: Fraction(sevenths, 7)),
    min_size=1,
).filter(lambda weights: any(weights.values()))


@given(tokens=st.integers(0, 10**6), weights=FRACTIONS)
def test_each_share_is_within_one_token_of_exact(tokens, weights):
    total = sum(weights.values())
    for digest, got in share(tokens, weights).items():
        assert abs(got - tokens * weights[digest] / total) < 1


@given(tokens=st.integers(0, 1000), weights=FRACTIONS, data=st.data())
def test_the_order_of_the_mixture_does_not_matter(tokens, weights, data):
    shuffled = dict(data.draw(st.permutations(list(weights.items()))))
    assert share(tokens, shuffled) == share(tokens, weights)


def record(meter, usage, *terms):
    mixture = [
        WeightedAdapter(AdapterKey(SHARED_OWNER, name, AdapterDigest(name)), weight)
        for name, weight in terms
    ]
    meter.record(TenantId("acme"), Outcome.COMPLETED, usage, mixture)
    return {a.digest: (a.requests, a.prompt_tokens, a.completion_tokens) for a in used(meter)}


def used(meter):
    return meter.snapshot().adapters


def test_credit_is_by_absolute_weight():
    assert record(Meter(), Usage(40, 100), ("a", 0.75), ("b", -0.25)) == {
        "a": (1, 30, 75),
        "b": (1, 10, 25),
    }


def test_the_base_is_credited_when_no_adapter_has_weight():
    meter = Meter()
    record(meter, Usage(3, 4))
    assert record(meter, Usage(1, 1), ("a", 0.0)) == {"": (2, 4, 5)}


def test_a_rejected_request_uses_nothing():
    meter = Meter()
    meter.record(TenantId("acme"), Outcome.REJECTED_QUOTA)
    assert meter.snapshot().tenants == (TenantUsage(TenantId("acme"), 1, 0, 0),)
    assert meter.snapshot().outcomes == (("acme", Outcome.REJECTED_QUOTA, 1),)


def test_books_that_do_not_balance_are_told():
    meter = Meter()
    record(meter, Usage(3, 4))
    meter._tenants[TenantId("acme")] = TenantUsage(TenantId("acme"), 1, 3, 5)
    with pytest.raises(IntegrityError, match="adapters 4, of the tenant 5"):
        meter.check_integrity()


def test_ties_go_in_the_order_of_digests():
    weights = {AdapterDigest(n): Fraction(1) for n in "cab"}
    assert share(2, weights) == {"a": 1, "b": 1, "c": 0}


@given(REQUESTS, st.sets(st.sampled_from("abcd")))
def test_folding_what_was_removed_keeps_the_totals(requests, removed):
    meter, whole = Meter(), Meter()
    known = {f"digest-{name}" for name in set("abcd") - removed}
    for tenant, outcome, usage, mixture in requests:
        for each in (meter, whole):
            each.record(TenantId(tenant), outcome, usage, mixture)
        meter.fold(known)
        meter.check_integrity()
    assert {a.digest for a in used(meter)} <= known | {BASE, REMOVED}
    kept = [a for a in used(whole) if a.digest in known]
    assert [a for a in used(meter) if a.digest in known] == kept
    assert sum(a.requests for a in used(meter)) == sum(a.requests for a in used(whole))


@given(st.lists(REQUESTS, max_size=4))
def test_the_parts_of_a_request_add_up(several):
    """Each part is shared as a request of its own; the request is counted once."""
    meter, apart = Meter(), Meter()
    acme = TenantId("acme")
    for parts in several:
        booked = [(usage or Usage(0, 0), mixture) for _, _, usage, mixture in parts]
        meter.record_parts(acme, Outcome.COMPLETED, booked)
        for usage, mixture in booked:
            apart.record(acme, Outcome.COMPLETED, usage, mixture)
    meter.check_integrity()
    spent = {a.digest: (a.prompt_tokens, a.completion_tokens) for a in used(meter)}
    assert spent == {a.digest: (a.prompt_tokens, a.completion_tokens) for a in used(apart)}
    assert all(a.requests <= len(several) for a in used(meter))
    assert sum(t.requests for t in meter.snapshot().tenants) == len(several)
