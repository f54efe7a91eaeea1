"""Checks whose weights a manager keeps."""

from cluster.adapters.residency.manager import MOST_WEIGHTS
from cluster.domain.ids import AdapterDigest, TenantId


async def test_weights_of_tenants_that_have_gone_are_forgotten(make_rig):
    rig = make_rig()
    a, heavy = [AdapterDigest("a")], TenantId("heavy")
    long_one = await rig.manager.acquire(a, heavy, 5.0)
    for number in range(1000):
        rig.manager.release(await rig.manager.acquire(a, TenantId(f"t{number}"), 2.0))
        rig.clock.advance(1.0)
    assert len(rig.manager._weights) <= 2 * MOST_WEIGHTS
    assert rig.manager._weights[heavy] == 5.0
    rig.manager.release(long_one)
