"""Checks what a replica tells of itself."""

import msgspec

from cluster.config import AppConfig
from cluster.domain.ids import ReplicaId
from cluster.domain.replica import ReplicaSnapshot
from deployments.replica.replica_state import ReplicaState


def state_of(rig) -> ReplicaState:
    config = AppConfig.model_validate({"engine": {"max_batch_size": 3, "block_size": 4}})
    return ReplicaState(
        ReplicaId("r0"),
        config,
        engine=rig.engine,
        adapters=rig.manager,
        requests=rig.book,
        device="cpu: one",
    )


async def test_an_idle_replica_has_done_nothing(make_rig):
    snapshot = state_of(make_rig()).snapshot()
    assert (snapshot.max_batch_size, snapshot.block_size, snapshot.device) == (3, 4, "cpu: one")
    assert snapshot.backlog == ()
    assert (
        snapshot.work.steps.steps == snapshot.work.disk_loads.loads == snapshot.loading_bytes == 0
    )
    assert snapshot.eviction_age_s == snapshot.prefix_age_s == 0


async def test_a_replica_whose_engine_has_ended_takes_no_more(make_rig):
    rig = make_rig()
    state = state_of(rig)
    assert state.snapshot().draining is False
    assert rig.engine.stop(drain=False, timeout_s=20)
    assert state.snapshot().draining is True


async def test_work_backlog_and_loads_are_told(make_rig):
    rig = make_rig(slots=1)
    state = state_of(rig)
    rig.held.add("a")
    waits = rig.submit("a", tenant="acme")  # for its adapter, whose files are being read
    rig.submit(tenant="globex")  # the base, in the engine
    await rig.until(lambda: rig.manager.loading_bytes and rig.in_engine())
    before = state.snapshot()
    assert before.backlog == (("acme", 3), ("globex", 3))
    assert before.loading_bytes == 10
    rig.may_load.set()
    rig.runner.gate.release(100)
    await rig.end(waits)
    after = state.snapshot()
    assert (after.backlog, after.loading_bytes) == ((), 0)
    assert after.work.steps.prefill_tokens == 6
    assert after.work.steps.since(before.work.steps).steps == after.work.steps.steps
    assert (after.work.disk_loads.loads, after.work.disk_loads.nbytes) == (1, 10)


async def test_a_snapshot_survives_its_way_to_a_front(make_rig):
    snapshot = state_of(make_rig()).snapshot()
    sent = msgspec.msgpack.encode(snapshot)
    assert msgspec.msgpack.decode(sent, type=ReplicaSnapshot) == snapshot
