"""The planner's laws, for any cluster and any demand."""

import random
from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.placement.demand.demand import Demand, DemandKey
from cluster.placement.planning.plan import (
    ChurnLeft,
    MoveKind,
    PlacedFor,
    Plan,
    PlanInputs,
    ReplicaRoom,
    ResidentCopy,
)
from cluster.placement.planning.planner import STEPS, plan
from cluster.placement.planning.rules import DENSER, PlanningRules, rules_of
from cluster.placement.policy import ClusterPolicy, TierPolicy
from cluster.placement.policy.tiers import LeastCopies
from tests.support.planning_cases import (
    PLENTY,
    demand_of,
    fetched,
    follow,
    inputs_of,
    rate_of,
)

NAMES = "abcdefg"
TENANTS = ("acme", "globex", "initech")
DIGESTS = st.sampled_from(NAMES)
SETS = st.sets(DIGESTS, min_size=1, max_size=3).map(lambda found: "".join(sorted(found)))
RATES = st.sampled_from([0.0, 0.002, 0.05, 0.5, 1.0, 4.0, 12.0])
PROMISES = (LeastCopies(1), LeastCopies(2, "tiers.gold.min_copies"))
LAWS = settings(max_examples=40, deadline=None)


@st.composite
def rooms(draw: st.DrawFn, sizes: dict[str, int], most: int = 4) -> tuple[ReplicaRoom, ...]:
    made = []
    for index in range(draw(st.integers(1, most))):
        slots = draw(st.integers(1, 5))
        limit = draw(st.integers(1, 120))
        resident: list[ResidentCopy] = []
        for digest in draw(st.lists(DIGESTS, unique=True, max_size=slots)):
            if sum(copy.nbytes for copy in resident) + sizes[digest] <= limit:
                busy = draw(st.booleans())
                ready = draw(st.booleans()) if busy else True
                resident.append(ResidentCopy(AdapterDigest(digest), sizes[digest], ready, busy))
        desired = draw(st.lists(DIGESTS, unique=True, max_size=slots))
        age = draw(st.sampled_from([0.0, 10.0, 100.0]))
        made.append(
            ReplicaRoom(ReplicaId(f"r{index}"), slots, limit, tuple(resident), tuple(desired), age)
        )
    return tuple(made)


@st.composite
def problems(
    draw: st.DrawFn, *, tenants: int = 3, pinned: bool = True, bounded: bool = True
) -> PlanInputs:
    sizes = {name: draw(st.integers(1, 40)) for name in NAMES}
    keys = st.tuples(st.sampled_from(TENANTS[:tenants]), SETS)
    asked = draw(st.dictionaries(keys, st.tuples(RATES, RATES), max_size=8))
    ordinary = draw(st.integers(0, 60))
    places = draw(rooms(sizes))
    pairs = st.tuples(st.sampled_from([ReplicaId("r0"), ReplicaId("r1")]), DIGESTS)
    return inputs_of(
        places,
        demand_of(*(rate_of(who, what, *clocks) for (who, what), clocks in asked.items())),
        names=NAMES,
        sizes=sizes,
        pins=draw(st.dictionaries(DIGESTS, st.integers(1, 4), max_size=2)) if pinned else {},
        rules=PlanningRules(
            least=draw(st.sampled_from([1, 1, 2])),
            most=draw(st.sampled_from([None, 2])),
            spare=draw(st.sampled_from([0.0, 0.1, 0.5])),
            weights=draw(st.dictionaries(st.sampled_from(TENANTS), st.sampled_from([0.5, 3.0]))),
            promised=draw(st.dictionaries(st.sampled_from(TENANTS), st.sampled_from(PROMISES))),
        ),
        most=draw(st.dictionaries(DIGESTS, st.integers(1, 3), max_size=2)) if bounded else {},
        churn=ChurnLeft(ordinary, 4 * ordinary, draw(st.booleans())),
        lost="".join(sorted(draw(st.sets(DIGESTS, max_size=2)))),
        moved=draw(st.frozensets(DIGESTS, max_size=2)),
        avoid=draw(st.frozensets(pairs, max_size=2)),
    )


def check_bounds(problem: PlanInputs, planned: Plan) -> None:
    """Check slots, bytes, copies, churn and failed places."""
    sizes = {info.digest: info.nbytes for info in problem.adapters}
    assert set(planned.desired) == {room.replica_id for room in problem.replicas}
    for room in problem.replicas:
        desired = planned.desired[room.replica_id]
        in_use = {copy.digest for copy in room.resident if copy.busy}
        taken = set(desired) | (in_use if desired else set())
        assert len(set(desired)) == len(desired)
        assert len(taken) <= room.slots
        assert sum(sizes[digest] for digest in taken) <= room.bytes_limit
    for digest, allowed in problem.most.items():
        assert sum(digest in desired for desired in planned.desired.values()) <= allowed
    for one in planned.sets:
        least = one.wanted.promised.copies if one.wanted else 1
        most = one.most or len(problem.replicas)
        assert one.copies <= max(min(most, len(problem.replicas)), one.pinned)
        assert len(one.replicas) <= max(one.copies, least, one.present)
    moves = [move for move in planned.moves if move.kind is MoveKind.PREFETCH]
    told = sum(move.nbytes for move in moves)
    first = {move.replica_id for move in moves} if problem.churn.unused else set()
    if told > problem.churn.urgent:
        assert len(first) == 1, "one set at most, where nothing was moved before"
    if any(not move.promised for move in moves) and len(first) != 1:
        assert told <= problem.churn.ordinary
    assert problem.avoid.isdisjoint((move.replica_id, move.digest) for move in moves)


@given(problems(), st.integers(0, len(STEPS)))
@LAWS
def test_a_plan_is_within_the_bounds_after_any_of_its_steps(problem: PlanInputs, cut: int) -> None:
    check_bounds(problem, plan(problem, STEPS[:cut]))


@given(problems(), st.integers(0, len(STEPS)), st.randoms(use_true_random=False))
@LAWS
def test_the_order_of_the_inputs_does_not_matter(problem, cut, rng: random.Random) -> None:
    def shuffled(items):
        found = list(items)
        return tuple(rng.sample(found, len(found)))

    mixed = replace(
        problem,
        replicas=shuffled(
            [
                replace(room, resident=shuffled(room.resident), desired=shuffled(room.desired))
                for room in problem.replicas
            ]
        ),
        adapters=shuffled(problem.adapters),
        demand=Demand(shuffled(problem.demand.rates)),
        pins=dict(shuffled(problem.pins.items())),
    )
    assert plan(mixed, STEPS[:cut]) == plan(problem, STEPS[:cut])


@given(problems())
@LAWS
def test_other_names_in_the_same_order_give_the_same_plan(problem: PlanInputs) -> None:
    """Replicas and tenants that are called otherwise get what the others would get."""
    named = replace(
        problem,
        replicas=tuple(
            replace(room, replica_id=ReplicaId(f"other-{room.replica_id}"))
            for room in problem.replicas
        ),
        demand=Demand(
            tuple(
                rate._replace(key=DemandKey(f"other-{rate.key.tenant}", rate.key.adapters))
                for rate in problem.demand.rates
            )
        ),
        rules=replace(
            problem.rules,
            weights={f"other-{who}": weight for who, weight in problem.rules.weights.items()},
            promised={f"other-{who}": least for who, least in problem.rules.promised.items()},
        ),
        avoid=frozenset((f"other-{replica}", digest) for replica, digest in problem.avoid),
    )
    renamed = plan(named)
    expected = plan(problem)
    assert renamed.desired == {f"other-{r}": found for r, found in expected.desired.items()}
    assert fetched(renamed) == [(f"other-{r}", d) for r, d in fetched(expected)]


@given(problems())
@LAWS
def test_unchanged_demand_comes_to_rest(problem: PlanInputs) -> None:
    """Each tick has a minute's churn; what is missing is there after as many minutes."""
    per_minute = max(40, problem.churn.ordinary)  # as much as the largest adapter
    problem = replace(problem, churn=ChurnLeft(per_minute, 4 * per_minute))
    bound = sum(info.nbytes for info in problem.adapters) * len(problem.replicas)
    for tick in range(bound // per_minute + 8):
        planned = plan(problem)
        problem = follow(problem, planned)
        if tick > 2 and not planned.moves:
            break
    assert plan(problem).moves == ()
    assert plan(problem).desired == planned.desired


@given(problems(pinned=False), st.integers(0, 3))
@LAWS
def test_a_replica_that_leaves_moves_only_what_it_had(problem: PlanInputs, number: int) -> None:
    assume(len(problem.replicas) > 1)
    even = tuple(replace(room, eviction_age_s=10.0) for room in problem.replicas)
    rules = replace(problem.rules, least=1, promised={})
    problem = settled(replace(problem, replicas=even, rules=rules))  # a copy pays by the age
    assume(not plan(problem).moves)
    gone = problem.replicas[number % len(problem.replicas)]
    had = {copy.digest for copy in gone.resident} | set(gone.desired)
    left = tuple(room for room in problem.replicas if room is not gone)
    kept = {d for room in left for d in (*room.desired, *(c.digest for c in room.resident))}
    lost = frozenset(had - kept)
    planned = plan(replace(problem, replicas=left, lost=lost))
    for move in planned.moves:
        if move.kind is MoveKind.PREFETCH and not move.reason.startswith("evened out"):
            affected = {
                d for one in planned.sets if move.digest in one.members for d in one.members
            }
            assert affected & had, move


def settled(problem: PlanInputs) -> PlanInputs:
    """Return the problem once its plans have been followed for a while."""
    problem = replace(problem, churn=PLENTY)
    for _ in range(8):
        problem = follow(problem, plan(problem))
    return replace(problem, moved=frozenset())


@given(problems())
@LAWS
def test_a_replica_that_joins_gets_only_what_pays_back(problem: PlanInputs) -> None:
    problem = settled(problem)
    new = ReplicaRoom(ReplicaId("r9"), 5, 120)
    planned = plan(replace(problem, replicas=(*problem.replicas, new)))
    up = {one.members: one.wanted.up for one in planned.sets if one.wanted}
    for move in planned.moves:
        if move.kind is MoveKind.PREFETCH and not move.promised:
            rate = max(up[members] for members in up if move.digest in members)
            assert rate * problem.rules.payback_s > 1.5


@given(problems(), st.sampled_from(TENANTS), SETS, st.sampled_from([0.01, 1.0, 20.0]))
@LAWS
def test_more_demand_never_means_fewer_copies(problem, who: str, what: str, extra: float) -> None:
    key = DemandKey(who, tuple(what))
    others = [rate for rate in problem.demand.rates if rate.key != key]
    (before,) = [r for r in problem.demand.rates if r.key == key] or [rate_of(who, what, 0.0)]
    busier = rate_of(who, what, before.fast + extra, before.slow + extra)
    more = replace(problem, demand=demand_of(*others, busier))
    copies = {one.members: one.copies for one in plan(problem).sets}
    assert {one.members: one.copies for one in plan(more).sets}[key.adapters] >= copies.get(
        key.adapters, 0
    )


@given(problems(pinned=False, bounded=False), st.sampled_from([2.0, 50.0]))
@LAWS
def test_a_tenant_keeps_what_it_is_owed_when_another_asks_for_more(problem, times: float) -> None:
    rules = replace(problem.rules, least=1, promised={})
    rooms_in_use = tuple(
        replace(room, resident=tuple(c._replace(busy=False, ready=True) for c in room.resident))
        for room in problem.replicas
    )
    problem = settled(
        replace(problem, rules=rules, replicas=rooms_in_use, avoid=frozenset(), lost=frozenset())
    )
    mine = {r.key.adapters for r in problem.demand.rates if r.key.tenant == "acme"}
    mine -= {r.key.adapters for r in problem.demand.rates if r.key.tenant != "acme"}
    before = {one.members for one in plan(problem).sets if one.rule is PlacedFor.OWED} & mine
    louder = [
        rate
        if rate.key.tenant == "acme"
        else rate_of(rate.key.tenant, rate.key.adapters, times * rate.fast, times * rate.slow)
        for rate in problem.demand.rates
    ]
    after = {
        one.members
        for one in plan(replace(problem, demand=demand_of(*louder))).sets
        if one.rule is not PlacedFor.DEMAND
    }
    assert before <= after


@given(problems())
@LAWS
def test_what_gives_way_to_no_promise_is_clearly_less_dense(problem: PlanInputs) -> None:
    planned = plan(problem)
    shares = {one.members: one.wanted for one in planned.sets if one.wanted}
    worth: dict[str, float] = {}
    slots = max(room.slots for room in problem.replicas)
    limit = max(room.bytes_limit for room in problem.replicas)
    sizes = {info.digest: info.nbytes for info in problem.adapters}
    for one in shares.values():
        for digest in one.members:
            share = max(1 / slots, sizes[digest] / limit)
            worth[digest] = worth.get(digest, 0.0) + one.saved / share
    for room in problem.replicas:
        moves = [m for m in planned.moves if m.replica_id == room.replica_id]
        fetches = [m for m in moves if m.kind is MoveKind.PREFETCH]
        if not fetches or any(move.promised for move in fetches):
            continue
        desired = set(planned.desired[room.replica_id])
        there = {copy.digest: copy for copy in room.resident}
        idle = sorted(
            worth.get(d, 0.0) for d, c in there.items() if d not in desired and not c.busy
        )
        over = len(desired | there.keys()) - room.slots
        if over <= 0:
            continue
        densest = max(
            one.saved / one.size
            for members, one in shares.items()
            if any(move.digest in members for move in fetches)
        )
        assert all(value * DENSER <= densest + 1e-6 for value in idle[:over])


@given(problems(), st.randoms(use_true_random=False))
@LAWS
def test_who_asks_does_not_matter_while_weights_are_equal(problem, rng: random.Random) -> None:
    """Dividing a set's rate among more requests of the same tenant's kind changes nothing."""
    rules = replace(problem.rules, weights={}, promised={})
    alone = [r._replace(key=r.key._replace(tenant="acme")) for r in problem.demand.rates]
    by_set: dict[tuple[str, ...], tuple[float, float]] = {}
    for rate in alone:
        fast, slow = by_set.get(rate.key.adapters, (0.0, 0.0))
        by_set[rate.key.adapters] = fast + rate.fast, slow + rate.slow
    one = demand_of(*(rate_of("acme", what, *clocks) for what, clocks in by_set.items()))
    two = demand_of(
        *(
            rate_of(who, what, fast / 2, slow / 2)
            for what, (fast, slow) in by_set.items()
            for who in ("acme", "globex")
        )
    )
    whole, divided = (plan(replace(problem, rules=rules, demand=demand)) for demand in (one, two))
    assert whole.desired == divided.desired
    assert whole.moves == divided.moves


@given(problems())
@LAWS
def test_a_last_copy_with_demand_is_let_go_only_for_want_of_room(problem: PlanInputs) -> None:
    rules = replace(problem.rules, least=1, promised={}, spare=0.0)
    problem = replace(problem, pins={}, most={}, rules=rules)
    roomy = replace(
        problem,
        replicas=tuple(replace(room, slots=30, bytes_limit=10**6) for room in problem.replicas),
    )
    planned = plan(roomy)
    for one in planned.sets:
        serving = [
            room.replica_id
            for room in roomy.replicas
            if {copy.digest for copy in room.resident if copy.ready}.issuperset(one.members)
        ]
        if one.wanted and serving:
            assert any(set(one.members) <= set(planned.desired[name]) for name in serving)


@given(problems(), st.sets(DIGESTS, max_size=4), st.floats(0.0, 1.0))
@LAWS
def test_what_vanishes_or_shrinks_is_no_error(problem: PlanInputs, gone, shrunk: float) -> None:
    changed = replace(
        problem,
        adapters=tuple(info for info in problem.adapters if info.digest not in gone),
        replicas=tuple(
            replace(room, bytes_limit=int(shrunk * room.bytes_limit)) for room in problem.replicas
        ),
    )
    planned = plan(changed)
    listed = {info.digest for info in changed.adapters}
    assert all(listed.issuperset(desired) for desired in planned.desired.values())
    placed = {one.members[0] for one in planned.sets if one.pinned}
    named = {members[0] for members, _ in planned.unplaced}
    assert problem.pins.keys() & listed <= placed | named


@given(problems(pinned=False, bounded=False), st.none() | st.tuples(DIGESTS, st.integers(1, 3)))
@LAWS
def test_least_copies_are_kept_where_there_is_room(problem: PlanInputs, bound) -> None:
    roomy = replace(
        problem,
        replicas=tuple(replace(room, slots=30, bytes_limit=10**6) for room in problem.replicas),
        churn=PLENTY,
        avoid=frozenset(),
        most=dict([bound] if bound else ()),
    )
    planned = plan(roomy)
    short = {members for members, _ in planned.unplaced}
    for one in planned.sets:
        promised = one.wanted.promised.copies
        allowed = min([roomy.most.get(digest, promised) for digest in one.members])
        if promised > 1:
            assert len(one.replicas) >= min(promised, allowed, len(roomy.replicas))
            assert (one.members in short) == (min(promised, allowed) > len(roomy.replicas))


@given(problems(), st.permutations(TENANTS), st.permutations(["gold", "silver", "standard"]))
@LAWS
def test_the_order_of_tiers_does_not_matter(problem, tenants, order: list[str]) -> None:
    tiers = {"gold": TierPolicy(min_copies=3), "silver": TierPolicy(min_copies=2)}
    tiers["standard"] = TierPolicy()
    told = dict(zip(tenants, tiers, strict=True))
    policies = [
        ClusterPolicy(tiers={name: tiers[name] for name in names}, tenants=who)
        for names, who in ((tiers, told), (order, dict(reversed(told.items()))))
    ]
    first, second = (replace(problem, rules=rules_of(each, {}, TENANTS)) for each in policies)
    assert plan(first) == plan(second)
