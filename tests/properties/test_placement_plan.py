"""The planner's laws, for any cluster and any load."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.placement.planning.load import AdapterRate, LoadReport
from cluster.placement.planning.plan import (
    AdapterInfo,
    MoveKind,
    Plan,
    PlanInputs,
    ReplicaRoom,
    ResidentCopy,
)
from cluster.placement.planning.planner import plan
from cluster.placement.policy import ClusterPolicy, PickingPolicy, PlacementPolicy

NAMES = [f"adapter-{i}" for i in range(7)]
DIGESTS = st.sampled_from([AdapterDigest(name) for name in NAMES])


@st.composite
def rooms(draw: st.DrawFn, sizes: dict[str, int]) -> tuple[ReplicaRoom, ...]:
    made = []
    for index in range(draw(st.integers(1, 4))):
        slots = draw(st.integers(1, 4))
        limit = draw(st.integers(1, 100))
        resident: list[ResidentCopy] = []
        for digest in draw(st.lists(DIGESTS, unique=True, max_size=slots)):
            if sum(h.nbytes for h in resident) + sizes[digest] <= limit:
                busy = draw(st.booleans())
                ready = busy or draw(st.booleans())
                resident.append(
                    ResidentCopy(digest, sizes[digest], ready, busy, draw(st.integers(0, 9)))
                )
        desired = draw(st.lists(DIGESTS, unique=True, max_size=slots))
        made.append(
            ReplicaRoom(ReplicaId(f"r{index}"), slots, limit, tuple(resident), tuple(desired))
        )
    return tuple(made)


@st.composite
def inputs(draw: st.DrawFn) -> PlanInputs:
    sizes = {name: draw(st.integers(1, 40)) for name in NAMES}
    rates = {name: draw(st.sampled_from([0.0, 0.01, 0.5, 1.0, 2.0, 8.0])) for name in NAMES}
    base = draw(st.sampled_from([0.0, 1.0, 10.0]))
    replicas = draw(rooms(sizes))
    return PlanInputs(
        replicas=replicas,
        adapters=tuple(
            AdapterInfo(AdapterDigest(name), name, TenantId("t"), sizes[name]) for name in NAMES
        ),
        load=LoadReport(
            total=sum(rates.values()) + base,
            falling=draw(st.sampled_from([1.0, 2.0])) * (sum(rates.values()) + base),
            adapters=tuple(
                AdapterRate(AdapterDigest(name), rate, rate, ((TenantId("t"), rate),))
                for name, rate in rates.items()
                if rate
            ),
        ),
        policy=ClusterPolicy(
            placement=PlacementPolicy(
                max_moves_per_tick=draw(st.integers(1, 5)),
                spare_share=draw(st.sampled_from([0.0, 0.25, 0.5])),
                tolerance=draw(st.sampled_from([0.0, 0.15])),
                max_copies=draw(st.sampled_from([None, 1, 2])),
            ),
            picking=PickingPolicy(bound=draw(st.sampled_from([1.0, 1.25]))),
        ),
        pins=draw(st.dictionaries(DIGESTS, st.integers(1, 4), max_size=2)),
        previous=draw(st.dictionaries(DIGESTS, st.integers(1, 4), max_size=4)),
        cooling=draw(st.frozensets(DIGESTS, max_size=2)),
        avoid=draw(
            st.frozensets(
                st.tuples(st.sampled_from([ReplicaId("r0"), ReplicaId("r1")]), DIGESTS), max_size=2
            )
        ),
    )


def follow(given_inputs: PlanInputs, planned: Plan) -> PlanInputs:
    """Return the cluster after every replica followed its plan."""
    sizes = {info.digest: info.nbytes for info in given_inputs.adapters}
    replicas = []
    for room in given_inputs.replicas:
        desired = planned.desired[room.replica_id]
        evicted = {
            m.digest
            for m in planned.moves
            if m.replica_id == room.replica_id and m.kind is MoveKind.EVICT
        }
        resident = {
            h.digest: replace(h, ready=True) for h in room.resident if h.digest not in evicted
        }
        for digest in desired:
            resident.setdefault(digest, ResidentCopy(digest, sizes[digest], True, False))
        replicas.append(replace(room, resident=tuple(resident.values()), desired=desired))
    return replace(
        given_inputs,
        replicas=tuple(replicas),
        previous={target.digest: target.copies for target in planned.copies if target.copies},
    )


@given(inputs())
@settings(max_examples=60, deadline=None)
def test_capacity_is_kept(problem: PlanInputs) -> None:
    planned = plan(problem)
    sizes = {info.digest: info.nbytes for info in problem.adapters}
    assert set(planned.desired) == {room.replica_id for room in problem.replicas}
    for room in problem.replicas:
        desired = planned.desired[room.replica_id]
        assert len(set(desired)) == len(desired) <= room.slots
        assert sum(sizes[digest] for digest in desired) <= room.bytes_limit


@given(inputs())
@settings(max_examples=60, deadline=None)
def test_there_is_room_for_what_is_prefetched_and_nothing_busy_is_evicted(
    problem: PlanInputs,
) -> None:
    planned = plan(problem)
    sizes = {info.digest: info.nbytes for info in problem.adapters}
    for room in problem.replicas:
        told = {
            kind: {
                m.digest
                for m in planned.moves
                if m.replica_id == room.replica_id and m.kind is kind
            }
            for kind in MoveKind
        }
        desired = set(planned.desired[room.replica_id])
        resident = {h.digest for h in room.resident}
        assert told[MoveKind.PREFETCH] <= desired - resident - set(room.desired)
        assert told[MoveKind.EVICT] <= {h.digest for h in room.resident if not h.busy} - desired
        if told[MoveKind.PREFETCH] and desired <= resident | told[MoveKind.PREFETCH]:
            there = (resident - told[MoveKind.EVICT]) | desired
            assert len(there) <= room.slots
            assert sum(sizes[digest] for digest in there) <= room.bytes_limit


@given(inputs())
@settings(max_examples=60, deadline=None)
def test_copies_and_prefetches_stay_within_what_was_decided(problem: PlanInputs) -> None:
    planned = plan(problem)
    prefetches = [m for m in planned.moves if m.kind is MoveKind.PREFETCH]
    assert len(prefetches) <= problem.policy.placement.max_moves_per_tick
    for target in planned.copies:
        placed = sum(target.digest in desired for desired in planned.desired.values())
        assert target.copies <= len(problem.replicas)
        assert target.copies >= target.pinned
        if target.rate:
            assert target.copies >= 1
        if target.copies:
            assert placed <= target.copies
    for move in prefetches:
        assert (move.replica_id, move.digest) not in problem.avoid


@given(inputs(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_inputs_does_not_matter(problem: PlanInputs, rng) -> None:
    def shuffled(items):
        return tuple(rng.sample(items, len(items)))

    mixed = replace(
        problem,
        replicas=shuffled(
            [
                replace(room, resident=shuffled(room.resident), desired=shuffled(room.desired))
                for room in problem.replicas
            ]
        ),
        adapters=shuffled(problem.adapters),
        load=replace(problem.load, adapters=shuffled(problem.load.adapters)),
        pins=dict(shuffled(list(problem.pins.items()))),
    )
    assert plan(mixed) == plan(problem)


@given(inputs())
@settings(max_examples=60, deadline=None)
def test_unchanged_load_comes_to_rest_and_then_nothing_moves(problem: PlanInputs) -> None:
    problem = replace(problem, cooling=frozenset())
    for _ in range(40):
        planned = plan(problem)
        before, problem = problem, follow(problem, planned)
        if not planned.moves and problem == before:  # earlier prefetches have arrived too
            break
    else:
        raise AssertionError(f"still moving: {planned.moves}")
    again = plan(problem)
    assert again.moves == ()
    assert again.desired == planned.desired


@given(inputs())
@settings(max_examples=60, deadline=None)
def test_pins_are_placed_wherever_there_is_room_for_all_of_them(problem: PlanInputs) -> None:
    """With idle replicas that can hold all pins together, every pin gets its copies."""
    sizes = {info.digest: info.nbytes for info in problem.adapters}
    need = sum(sizes[digest] for digest in problem.pins)
    roomy = tuple(
        replace(
            room,
            slots=max(room.slots, len(problem.pins)),
            bytes_limit=max(room.bytes_limit, need),
            resident=tuple(replace(h, busy=False) for h in room.resident),
        )
        for room in problem.replicas
    )
    problem = replace(problem, replicas=roomy, avoid=frozenset(), cooling=frozenset())
    for _ in range(40):
        planned = plan(problem)
        problem = follow(problem, planned)
        if not planned.moves:
            break
    for digest, copies in problem.pins.items():
        placed = sum(digest in desired for desired in planned.desired.values())
        assert placed >= min(copies, len(problem.replicas))


@given(inputs(), st.sampled_from(NAMES), st.floats(0.01, 20.0))
@settings(max_examples=60, deadline=None)
def test_more_load_never_means_fewer_copies(problem: PlanInputs, name: str, extra: float) -> None:
    digest = AdapterDigest(name)
    rates = {rate.digest: (rate.rate, rate.falling) for rate in problem.load.adapters}
    up, down = rates.get(digest, (0.0, 0.0))
    rates[digest] = (up + extra, down + extra)
    busier = replace(
        problem,
        load=replace(
            problem.load,
            total=problem.load.total + extra,
            falling=problem.load.falling + extra,
            adapters=tuple(
                AdapterRate(d, up, down, ((TenantId("t"), up),)) for d, (up, down) in rates.items()
            ),
        ),
    )
    before = {target.digest: target.copies for target in plan(problem).copies}
    after = {target.digest: target.copies for target in plan(busier).copies}
    assert after[digest] >= before.get(digest, 0)


@given(inputs())
@settings(max_examples=60, deadline=None)
def test_losing_a_replica_moves_only_what_it_held(problem: PlanInputs) -> None:
    """At rest and with room to spare, the others keep every adapter that is still wanted."""
    problem = replace(
        problem,
        cooling=frozenset(),
        replicas=tuple(
            replace(room, slots=20, bytes_limit=1000, desired=()) for room in problem.replicas
        ),
    )
    for _ in range(40):
        planned = plan(problem)
        problem = follow(problem, planned)
        if not planned.moves:
            break
    lost, *rest = problem.replicas
    if not rest:
        return
    after = plan(replace(problem, replicas=tuple(rest)))
    wanted = {target.digest: target.copies for target in after.copies}
    for move in after.moves:
        assert move.kind is MoveKind.PREFETCH
        had = sum(move.digest in room.desired for room in rest)
        assert had < wanted[move.digest]
        assert move.digest in lost.desired or wanted[move.digest] > had
