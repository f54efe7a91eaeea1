"""Measures the costs of an engine on this machine: steps, loads from both tiers, a start."""

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from cluster.adapters.random_adapters import write_adapters
from cluster.base_model.source import ModelLocation
from cluster.config import AppConfig
from cluster.domain.work import LoadTotals
from cluster.engine.port import LoadableAdapter
from cluster.errors import ConfigError
from cluster.placement.cost.fit import STEP_FEATURES, STEP_NAMES
from cluster.placement.cost.linear_fit import LinearFit
from cluster.placement.cost.model import CostModel, LoadCost
from cluster.placement.cost.profile import CostProfile, LoadProfile, StepProfile, engine_digest
from deployments.cli.profiling.profile_cells import ANSWER, RANKS, profile_cells
from deployments.cli.profiling.profile_engine import ProfileEngine

BUDGET_S, QUICK_BUDGET_S = 100.0, 20.0
"""No cell is begun after it."""
LOADS = 3  # times that each adapter is placed

Report = Callable[[str, str, int, int | None], None]


def measure_profile(
    model: ModelLocation, config: AppConfig, *, quick: bool, seed: int, report: Report
) -> CostProfile:
    """Measure a profile: about two minutes on an idle machine, half a minute if ``quick``.

    Raises:
        BraidError: the engine cannot be built, or a request failed.
    """
    rng = random.Random(seed)
    import_s = _time_imports()
    engine = ProfileEngine(model, config)
    try:
        with tempfile.TemporaryDirectory(prefix="braid-profile-") as folder:
            report("loading", "random adapters", 0, len(RANKS))
            adapters, host, disk = _load_adapters(engine, model, config, Path(folder), seed)
        _run_cells(engine, config, adapters, rng, quick=quick, report=report)
    finally:
        engine.close()
    defaults = CostModel()
    steps = _fit(
        [getattr(defaults.step, name) for name in STEP_NAMES],
        [([getattr(step, name) for name in STEP_FEATURES], step.seconds) for step in engine.steps],
    )
    return CostProfile(
        version=1,
        model=model.model_id,
        model_digest=model.digest,
        engine_digest=engine_digest(config.engine, config.adapters),
        device=engine.device,
        step=StepProfile(**dict(zip(STEP_NAMES, steps.fitted, strict=True))),
        host_load=_load_profile(defaults.host_load, host),
        disk_load=_load_profile(defaults.disk_load, disk),
        start_s=import_s + engine.build_s,
        r2=steps.r2,
        observed_s=sum(step.seconds for step in engine.steps),
    )


def _load_adapters(
    engine: ProfileEngine, model: ModelLocation, config: AppConfig, folder: Path, seed: int
) -> tuple[dict[int, list[LoadableAdapter]], list[LoadTotals], list[LoadTotals]]:
    """Read and place adapters of every rank, as many as the configuration has room for.

    Returns:
        The adapters by rank, and their loads from host memory and from files.
    """
    adapters: dict[int, list[LoadableAdapter]] = {}
    host: list[LoadTotals] = []
    disk: list[LoadTotals] = []
    for rank in sorted({min(rank, config.adapters.max_rank) for rank in RANKS}):
        kept = adapters.setdefault(rank, [])
        while len(kept) < config.adapters.slots:
            number = len(kept)
            root = folder / f"{rank}-{number}"
            (name,) = write_adapters(model.path, root, 1, rank, seed + 1000 * rank + number)
            adapter, read = engine.read_adapter(root / name)
            if kept and (number + 1) * adapter.nbytes > config.adapters.memory_bytes:
                break
            kept.append(adapter)
            placed = [engine.place(number, adapter) for _ in range(LOADS)]
            host += placed
            disk.append(LoadTotals(1, read.nbytes, read.seconds + placed[0].seconds))
        engine.clear(len(kept))
    return adapters, host, disk


def _run_cells(
    engine: ProfileEngine,
    config: AppConfig,
    adapters: dict[int, list[LoadableAdapter]],
    rng: random.Random,
    *,
    quick: bool,
    report: Report,
) -> None:
    """Run all cells in a random order, again and again until the time is up."""
    cells = profile_cells(
        max_batch=config.engine.max_batch_size,
        slots={rank: len(kept) for rank, kept in adapters.items()},
        longest=engine.longest,
        room=engine.kv_blocks * config.engine.block_size,
        quick=quick,
    )
    if not cells:
        raise ConfigError(
            f"the engine has room for {engine.longest} tokens, expected at least {ANSWER + 1}: "
            "raise engine.kv_blocks or engine.max_model_len"
        )
    engine.run(cells[0], rng)  # untimed: it fills what is allocated on first use
    engine.steps.clear()
    budget = QUICK_BUDGET_S if quick else BUDGET_S
    started = time.monotonic()
    placed = 0
    while True:
        for rank, kept in adapters.items():
            engine.clear(placed)
            for slot, adapter in enumerate(kept):
                engine.place(slot, adapter)
            placed = len(kept)
            mine = [cell for cell in cells if cell.rank == rank]
            for cell in rng.sample(mine, len(mine)):
                spent = time.monotonic() - started
                if spent > budget:
                    return
                report("measuring", "steps", int(spent), int(budget))
                engine.run(cell, rng)


def _fit(prior: Sequence[float], observed: Iterable[tuple[Sequence[float], float]]) -> LinearFit:
    fit = LinearFit(prior, prior_mass=0.0, least_mass=0.0)
    for x, seconds in observed:
        fit.observe(x, seconds, seconds)
    return fit


def _load_profile(prior: LoadCost, loads: Sequence[LoadTotals]) -> LoadProfile:
    fit = _fit((prior.latency, prior.per_byte), [((x.loads, x.nbytes), x.seconds) for x in loads])
    latency, per_byte = fit.fitted
    return LoadProfile(**asdict(LoadCost(latency, per_byte)))


def _time_imports() -> float:
    """Return the seconds that a new process takes until a replica's modules are imported."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import deployments.replica.replica"], check=True)
    return time.monotonic() - started
