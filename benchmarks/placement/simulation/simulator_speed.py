"""Measures how much faster than real time the simulator runs, in CPU time of one core.

Each row serves a Poisson trace of Zipf(1) adapters, one request a second for each replica, or a
slice of a day's log: 10,000 requests at the rate of 100,000 a day.
"""

import argparse
import random
import time
from collections.abc import Sequence

from benchmarks.placement.row import ResultRow
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import ReplicaEngine, SimulationSpec
from cluster.simulation.trace import TraceRequest

DEMANDED: dict[tuple[ReplicaEngine, int], float] = {
    ("exact", 3): 40.0,
    ("exact", 32): 4.0,
    ("fast", 3): 500.0,
    ("fast", 32): 500.0,
}
DAY_RATE = 100_000 / 86_400  # requests per second
DAY_REQUESTS = 10_000
DAY_DEMANDED = 2 * 86_400 / 60.0  # two policies over a day in a minute
ADAPTERS = 24
RATE_EACH = 1.0  # requests per second and replica
BEFORE = "hits and loads only, constant service"


def rows(arguments: Sequence[str] | None = ()) -> list[ResultRow]:
    """Run it and return its rows of the table."""
    options = options_of(arguments)
    made = []
    for (engine, replicas), demanded in DEMANDED.items():
        trace = poisson(RATE_EACH * replicas, options.seconds, seed=1)
        speeds = [speed(trace, engine, replicas) for _ in range(options.rounds)]
        what = f"{engine}, {replicas} replicas, {RATE_EACH * replicas:g} requests/s"
        made.append(_row(f"speed {engine} {replicas}", what, demanded, speeds))
    seconds = options.day_requests / DAY_RATE
    day = poisson(DAY_RATE, seconds, seed=2)
    speeds = [speed(day, "fast", 3) for _ in range(options.rounds)]
    what = f"fast, 3 replicas, {len(day):,} requests of a day of 100,000"
    made.append(_row("speed day", what, DAY_DEMANDED, speeds))
    return made


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; without one, the defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.placement.simulation.simulator_speed", description=__doc__
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="virtual, of each trace")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--day-requests", type=int, default=DAY_REQUESTS)
    return parser.parse_args(arguments)


def poisson(rate: float, seconds: float, *, seed: int) -> list[TraceRequest]:
    """Return a trace of single adapters, answers of 40 tokens in the mean."""
    rng = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(ADAPTERS)]
    trace, now = [], rng.expovariate(rate)
    while now < seconds:
        (adapter,) = rng.choices(range(ADAPTERS), weights)
        tokens = max(1, min(256, round(rng.expovariate(1 / 40))))
        tenant = TenantId(f"tenant-{adapter % 3}")
        trace.append(TraceRequest(now, tenant, (f"a{adapter}",), 60, tokens, 256))
        now += rng.expovariate(rate)
    return trace


def speed(trace: Sequence[TraceRequest], engine: ReplicaEngine, replicas: int) -> float:
    """Return virtual seconds per second of CPU."""
    catalog = [
        AdapterInfo(AdapterDigest(f"digest-{n:02}"), f"a{n}", TenantId("acme"), 10 * 2**20)
        for n in range(ADAPTERS)
    ]
    spec = SimulationSpec(
        trace=trace,
        policy=ClusterPolicy.fixed(replicas),
        catalog=catalog,
        replicas=replicas,
        engine=engine,
    )
    began = time.process_time()
    result = simulate(spec)
    return result.duration_s / (time.process_time() - began)


def _row(name: str, what: str, demanded: float, speeds: Sequence[float]) -> ResultRow:
    best = sorted(speeds)[len(speeds) // 2]
    return ResultRow(
        name=name,
        what=f"virtual over CPU time: {what}",
        before=BEFORE,
        demanded=f"at least {demanded:,.0f} times",
        after=f"{best:,.0f} times",
        interval=f"{len(speeds)} rounds, {min(speeds):,.0f} to {max(speeds):,.0f}",
        met=best >= demanded,
    )


def main() -> None:
    """Print the rows."""
    for row in rows(None):
        print(f"{row.what}: {row.after} ({row.interval}), demanded {row.demanded}")


if __name__ == "__main__":
    main()
