"""Means of tokens, by tenant."""

from cluster.domain.ids import TenantId
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.cost import cost_of
from cluster.placement.picking.filters import PickRequest
from cluster.placement.picking.mean_tokens import FIRST_MEAN_TOKENS, MeanTokens

ACME, GLOBEX = TenantId("acme"), TenantId("globex")


def test_a_tenant_begins_with_the_mean_of_all_and_goes_on_with_its_own() -> None:
    means = MeanTokens()
    assert means.of(ACME) == FIRST_MEAN_TOKENS
    for _ in range(2000):
        means.observe(ACME, 1000)
    assert means.of(ACME) > 990
    assert means.of(GLOBEX) > 990, "nothing is known of it"
    for _ in range(2000):
        means.observe(GLOBEX, 10)
    assert means.of(GLOBEX) < 20
    assert means.of(ACME) > 990


def test_it_remembers_so_many_tenants_the_last_ones() -> None:
    means = MeanTokens(most=10)
    means.observe(ACME, 1000)
    for number in range(9):
        means.observe(TenantId(f"t{number}"), 10)
    assert means.of(ACME) > FIRST_MEAN_TOKENS
    means.observe(GLOBEX, 10)
    assert len(means) == 10
    assert means.of(ACME) == means.of(TenantId("new")) < FIRST_MEAN_TOKENS + 10


def test_long_answers_of_a_tenant_change_no_other_tenants_cost(build) -> None:
    def queue_of(view: ClusterView, tenant: TenantId) -> float:
        asked = view.asked(PickRequest((), tenant, (), 30), harm=0.25, prefix=False, now=1.0)
        (replica,) = view.replicas()
        return cost_of(replica, asked, view.model).queue

    view = ClusterView()
    view.update(build.snapshot(running=16, queued=8, max_batch_size=16), 0.0)
    short, long = PickRequest((), GLOBEX, (), 1, 20), PickRequest((), ACME, (), 1, 2000)
    view.sent("first", "r0", short, 0.0)
    view.finished("first")
    before = queue_of(view, GLOBEX)
    for number in range(500):
        view.sent(str(number), "r0", long, 0.0)
        view.finished(str(number))
    view.update(build.snapshot(running=16, queued=8, max_batch_size=16, sequence=9), 1.0)
    assert queue_of(view, GLOBEX) == before
    assert queue_of(view, ACME) > 20 * before
