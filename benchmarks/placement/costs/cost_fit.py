"""Fit the cost model to a live cluster, and predict how long later steps take.

Two replicas serve a load whose parts change independently. Each second their totals are read, as
the controller does. After the first part of the time, the seconds of steps of each ten-second
window are predicted before the window's totals are taken in.
"""

import argparse
import asyncio
import contextlib
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.adapters.result import ProofResult, ProofVerdict, Table, median, percentile
from benchmarks.placement.costs.mixed_load import MixedLoad
from benchmarks.shared.machine import load_average, usable_cores
from cluster.adapters.random_adapters import write_adapters
from cluster.base_model.source import resolve_model
from cluster.config import AppConfig, Settings, cache_folder
from cluster.domain.ids import ReplicaId
from cluster.domain.work import LoadTotals, StepTotals, WorkTotals
from cluster.placement.cost.fit import CostFit
from cluster.placement.cost.model import CostModel
from cluster.tenancy.quickstart import write_demo_tenants
from deployments.local import lifecycle
from deployments.local.local_state import StateDir
from testing.local_cluster import LocalCluster, show_phase

PROGRAM = "python -m benchmarks.placement.costs.cost_fit"
POLL_S = 1.0
WINDOW_S = 10.0
LEAST_BUSY_S = 1.0  # a window with less says nothing
DEMANDED = 0.10
RANKS = (8, 64)
TENANT = "acme"


@dataclass(frozen=True, slots=True)
class Predicted:
    """One window of one replica."""

    measured_s: float
    default_s: float  # by the model that nothing was taught
    fitted_s: float  # by the fit at the window's start
    paced_s: float  # and times the replica's slowness then


@dataclass
class FitRun:
    """One seed's windows, and the fit after them."""

    seed: int
    windows: list[Predicted] = field(default_factory=list)
    described: dict[str, Any] = field(default_factory=dict)
    requests: int = 0
    failed: int = 0

    def errors(self, which: str) -> list[float]:
        """Return the relative errors of one prediction."""
        return [abs(getattr(w, which) / w.measured_s - 1.0) for w in self.windows]


async def measure(
    cluster: LocalCluster, aliases: list[str], seed: int, train_s: float, test_s: float
) -> FitRun:
    """Load the cluster, fit, and predict; the fit begins from nothing."""
    run = FitRun(seed)
    fit = CostFit(CostModel())
    loop = asyncio.get_running_loop()
    async with cluster.client(TENANT) as client, cluster.client() as admin:
        load = MixedLoad(client, cluster.config.model, aliases, seed)
        sending = asyncio.create_task(load.run())
        started = loop.time()
        window_at = started + train_s
        at_start: dict[ReplicaId, StepTotals] = {}
        model = fit.model
        try:
            while (now := loop.time()) < started + train_s + test_s:
                if sending.done():
                    sending.result()
                found = await read_totals(admin)
                if now >= window_at:
                    for replica_id, totals in found.items():
                        if replica_id in at_start:
                            done = totals.steps.since(at_start[replica_id])
                            run.windows += _predict(done, model, replica_id)
                        at_start[replica_id] = totals.steps
                for replica_id, totals in found.items():
                    fit.observe(replica_id, totals, now)
                if now >= window_at:
                    window_at += WINDOW_S
                    model = fit.model
                await asyncio.sleep(max(0.0, now + POLL_S - loop.time()))
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
    run.described = fit.describe()
    run.requests, run.failed = load.sent, load.failed
    return run


def _predict(done: StepTotals, model: CostModel, replica_id: ReplicaId) -> Iterator[Predicted]:
    if done.seconds >= LEAST_BUSY_S:
        fitted = model.step.seconds(done)
        yield Predicted(
            done.seconds,
            CostModel().step.seconds(done),
            fitted,
            fitted * model.slowness_of(replica_id),
        )


async def read_totals(admin: Any) -> dict[ReplicaId, WorkTotals]:
    """Read every replica's totals from the front's view."""
    answer = await admin.get("/admin/v1/residency")
    answer.raise_for_status()
    return {
        ReplicaId(item["replica_id"]): work_of(item["work"]) for item in answer.json()["replicas"]
    }


def work_of(told: Mapping[str, Any]) -> WorkTotals:
    """Return totals from their JSON form."""
    return WorkTotals(
        StepTotals(**told["steps"]),
        LoadTotals(**told["host_loads"]),
        LoadTotals(**told["disk_loads"]),
    )


def start_cluster(folder: Path, aliases: list[str], slots: int) -> LocalCluster:
    """Start two replicas over the adapters in ``folder``; stop it."""

    def make_config(state: StateDir, port: int) -> AppConfig:
        write_demo_tenants(state.tenants, state.keys, {TENANT: aliases}, secrets.token_bytes)
        return AppConfig.model_validate(
            {
                "tenants_file": state.tenants,
                "adapters_dir": folder / "adapters",
                "adapters": {"slots": slots, "memory_bytes": 2**30},
                "engine": {"threads": lifecycle.default_threads(2)},
                "replica": {"replicas": 2},
                "front": {"port": port},
            }
        )

    return LocalCluster.start(folder / "state", make_config, show_phase)


def result_of(runs: list[FitRun], command: str, setup: dict[str, Any], load: float) -> ProofResult:
    """Put the runs on a page."""
    medians = [median(run.errors("paced_s")) for run in runs]
    result = ProofResult(
        "Predicted and measured seconds of steps",
        command,
        "Seconds of steps in windows of ten seconds, predicted before the window is observed.",
        setup,
        load_before=load,
    )
    result.verdicts.append(
        ProofVerdict("median error of a window, worst seed", max(medians), DEMANDED)
    )
    if load > usable_cores():
        result.problems.append(
            f"the load average was {load:.1f} before: other programs used the cores, and how much "
            "they took from one window to the next is in every error"
        )
    rows: list[tuple[Any, ...]] = []
    for which, title in (
        ("default_s", "before: the default costs"),
        ("fitted_s", "the fit"),
        ("paced_s", "after: the fit, with each replica's slowness"),
    ):
        by_seed = [median(run.errors(which)) for run in runs]
        pooled = [error for run in runs for error in run.errors(which)]
        rows.append(
            (
                title,
                median(by_seed),
                f"{min(by_seed):.3g} to {max(by_seed):.3g}",
                percentile(pooled, 0.9),
            )
        )
    rows.append(("demanded", DEMANDED, "", ""))
    result.tables.append(
        Table(
            "Relative error of a window",
            ("model", "median of seeds' medians", "seeds", "90th percentile of all windows"),
            tuple(rows),
        )
    )
    names = list(runs[0].described["step"]["coefficients"])
    result.tables.append(
        Table(
            "Coefficients at the end",
            ("seed", *names, "R2", "seconds observed", "windows", "requests", "failed"),
            tuple(
                (
                    run.seed,
                    *(
                        f"{cost['value']:.3g} ± {cost['error']:.1g}"
                        for cost in run.described["step"]["coefficients"].values()
                    ),
                    run.described["step"]["r2"],
                    run.described["step"]["observed_s"],
                    len(run.windows),
                    run.requests,
                    run.failed,
                )
                for run in runs
            ),
        )
    )
    tiers = []
    for run in runs:
        for tier, told in run.described["loads"].items():
            costs = told["coefficients"].values()
            shown = (f"{cost['value']:.3g} ± {cost['error']:.1g}" for cost in costs)
            tiers.append(
                (run.seed, tier, told["rules"], *shown, told["r2"], told["observed_loads"])
            )
    result.tables.append(
        Table(
            "Loads at the end",
            ("seed", "tier", "rules", "latency", "per byte", "R2", "loads"),
            tuple(tiers),
        )
    )
    return result


def main() -> None:
    """Run the command; exit status 1: the model misses what is demanded."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train-s", type=float, default=120.0)
    parser.add_argument("--test-s", type=float, default=120.0)
    parser.add_argument("--adapters", type=int, default=12, help="of each rank")
    parser.add_argument("--slots", type=int, default=8, help="of each replica")
    parser.add_argument("--out", type=Path, help="folder for the page")
    options = parser.parse_args()
    location = resolve_model(AppConfig().model, cache_folder(Settings()))
    before = load_average()
    with tempfile.TemporaryDirectory(prefix="braid-cost-") as name:
        folder = Path(name)
        aliases = []
        for rank in RANKS:
            made = write_adapters(location.path, folder / "made", options.adapters, rank, seed=rank)
            for alias in made:
                target = folder / "adapters" / f"r{rank}-{alias}"
                target.parent.mkdir(exist_ok=True)
                (folder / "made" / alias).rename(target)
                aliases.append(target.name)
        cluster = start_cluster(folder, aliases, options.slots)
        try:
            runs = [
                asyncio.run(measure(cluster, aliases, seed, options.train_s, options.test_s))
                for seed in options.seeds
            ]
        finally:
            cluster.stop()
    seeds = " ".join(map(str, options.seeds))
    result = result_of(
        runs,
        f"{PROGRAM} --seeds {seeds} --train-s {options.train_s:g} --test-s {options.test_s:g}",
        {
            "model": AppConfig().model,
            "replicas": 2,
            "adapters": f"{len(aliases)} of ranks {', '.join(map(str, RANKS))}",
            "slots": options.slots,
            "seeds": seeds,
        },
        before,
    )
    print(result.page())
    if options.out is not None:
        result.write(options.out, "cost-model")
    sys.exit(0 if result.holds else 1)


if __name__ == "__main__":
    main()
