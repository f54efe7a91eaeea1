"""Laws of how tenants share the rows of a full batch, whatever happened before."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.domain.ids import TenantId
from cluster.engine.scheduling.row_shares import HALF_LIFE, RowShares

ROWS = 8
ALONE, NEW = TenantId("alone"), TenantId("new")
WEIGHTS = st.sampled_from((1.0, 1.0, 0.001, 0.3, 3.0, 1000.0))
SERVED = st.lists(st.integers(1, 500), max_size=6)


def serve(shares: RowShares, weight: float, sequences: int, tokens: list[int]) -> None:
    """Serve one of a tenant's sequences while it is alone, with so many tokens in each step."""
    for _ in range(sequences):
        shares.join(ALONE, weight)
    shares.start_row(ALONE, 0)
    for count in tokens:
        shares.count_step([(ALONE, count)])
    shares.end_row(ALONE)
    for _ in range(sequences):
        shares.leave(ALONE)


def fill(shares: RowShares, tenant: TenantId, weight: float) -> None:
    """Give a tenant all rows, and let as many sequences wait."""
    for _ in range(2 * ROWS):
        shares.join(tenant, weight)
    for _ in range(ROWS):
        shares.start_row(tenant, 0)


@given(
    alone=st.lists(st.tuples(WEIGHTS, st.integers(1, 12), SERVED), max_size=4),
    steps=st.sampled_from((0, 0, HALF_LIFE)),
    flood=st.tuples(WEIGHTS, SERVED),
    weight=WEIGHTS,
)
def test_whoever_was_alone_before_has_the_claim_of_a_newcomer(
    alone: list[tuple[float, int, list[int]]],
    steps: int,
    flood: tuple[float, list[int]],
    weight: float,
) -> None:
    shares = RowShares(ROWS, 64, enabled=True)
    for its_weight, sequences, tokens in alone:
        serve(shares, its_weight, sequences, tokens)
    serve(shares, weight, 1, [7] * steps)
    fill(shares, TenantId("flood"), flood[0])
    for count in flood[1]:
        shares.count_step([(TenantId("flood"), count)])
    for name in (ALONE, NEW):
        shares.join(name, weight)
    assert list(shares.owed((ALONE, NEW))) == [ALONE, NEW]
    assert [tenant for tenant, _ in shares.claims((ALONE, NEW))] == [ALONE, NEW]
