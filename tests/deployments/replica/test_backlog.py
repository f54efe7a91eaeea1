"""Checks the backlog that a replica reports."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.domain.replica import OTHERS
from deployments.replica.backlog import MAX_TENANTS, sum_backlog


def test_parts_are_added_by_tenant_most_first():
    assert sum_backlog({"a": 3, "b": 5}, {"a": 9}) == (("a", 12), ("b", 5))
    assert sum_backlog({}, {}) == ()


@given(st.dictionaries(st.text("abcdef", min_size=1), st.integers(1, 100), max_size=40))
def test_no_token_is_lost_and_few_tenants_are_named(tokens):
    told = sum_backlog(tokens)
    assert sum(count for _, count in told) == sum(tokens.values())
    assert len(told) <= MAX_TENANTS + 1
    named = [count for tenant, count in told if tenant != OTHERS]
    assert named == sorted(named, reverse=True)
    assert all(tokens[tenant] == count for tenant, count in told if tenant != OTHERS)
    assert (len(tokens) > MAX_TENANTS) == (told[-1:] != () and told[-1][0] == OTHERS)
