import pytest

from cluster.domain.ids import TenantId
from cluster.tenancy.shares import equal_weight, has_share, owed_shares, weight_of

A, B, C = map(TenantId, "abc")


@pytest.mark.parametrize(
    ("own", "tier", "weight"),
    [(None, None, 1.0), (2.5, None, 2.5), (2.5, 4.0, 4.0), (None, 0.5, 0.5)],
)
def test_a_tier_comes_before_the_tenants_file(
    own: float | None, tier: float | None, weight: float
) -> None:
    assert weight_of(own, tier) == weight


def test_without_a_policy_no_tier_has_a_weight() -> None:
    assert equal_weight(A) == weight_of(None, None)


def test_shares_are_parts_of_the_weights_of_those_who_are_active() -> None:
    assert owed_shares({A: 3.0, B: 1.0}) == {A: 0.75, B: 0.25}
    assert owed_shares({A: 3.0}) == {A: 1.0}
    assert owed_shares({}) == {}
    assert sum(owed_shares({A: 0.1, B: 7.0, C: 2.0}).values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("own", "weights", "has"),
    [(2, {A: 1.0, B: 1.0}, False), (3, {A: 1.0, B: 1.0}, True), (4, {A: 3.0, B: 1.0}, False)],
)
def test_a_tenant_has_its_share_of_six_or_not(
    own: int, weights: dict[TenantId, float], has: bool
) -> None:
    assert has_share(own, 6, A, weights) == has
