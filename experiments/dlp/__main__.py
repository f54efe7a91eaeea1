"""``python -m experiments.dlp``: measure what is missing, then write docs/results/dlp.{md,json}.

Every result is kept in ``--work`` once it is measured; the same command continues from there.
``--timing`` measures times alone, for a machine that does nothing else; the report keeps the rest.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from cluster.base_model.source import QUICKSTART_MODEL, resolve_model
from cluster.config import Settings, cache_folder
from demo.generator.skills import SKILLS
from experiments.dlp.decode import measure_decode
from experiments.dlp.dlp_quality import measure_quality, train_real_adapter
from experiments.dlp.dlp_report import write_report
from experiments.dlp.dlp_tasks import load_tasks
from experiments.dlp.routing import measure_speed, train_and_measure
from experiments.kept_results import kept_results, measure_once
from router_service.artifacts.router_artifact import read_manifest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("routing", "speed", "adapters", "quality", "decode", "report")
TIMING = ("routing", "speed", "decode", "report")
"""Training, where the first seed's router is not there yet, then what is timed."""


def main() -> None:
    """Run the parts that were asked for."""
    options = _arguments()
    results = options.work / "results"
    if options.timing:
        options.parts, options.seeds = list(TIMING), options.seeds[:1]
        # Times of another machine, or of a busy one, do not count.
        for kept in (*results.glob("speed.json"), *results.glob("decode-*.json")):
            kept.unlink()
    routers = {seed: options.work / f"router-{seed}" for seed in options.seeds}
    first = routers[options.seeds[0]]
    if "routing" in options.parts:
        for seed in options.seeds:
            settings = {
                "seed": seed,
                "n_train": options.n_train,
                "n_heldout": options.n_heldout,
                "epochs": options.epochs,
                "real_data": options.data is not None,
            }
            measure_once(
                results,
                f"routing-{seed}",
                settings,
                partial(
                    train_and_measure,
                    options.data,
                    routers[seed],
                    seed=seed,
                    n_train=options.n_train,
                    n_heldout=options.n_heldout,
                    epochs=options.epochs,
                    threads=options.threads,
                    say=_say,
                ),
            )
    version = read_manifest(first).version if options.parts != ["report"] else ""
    if "speed" in options.parts:
        settings = {"router": version, "rounds": options.rounds}
        measure_once(
            results,
            "speed",
            settings,
            lambda: measure_speed(first, options.data, rounds=options.rounds),
        )
    adapters = {name: ROOT / "demo" / "adapters" / name for name in SKILLS}
    cache = cache_folder(Settings())
    tasks, _ = load_tasks(options.data, n_train=2000, n_heldout=options.n_quality, seed=0)
    trainable = [task for task in tasks if task.name in options.tasks]
    if "adapters" in options.parts:
        for task in trainable:
            train_real_adapter(
                task,
                options.work / "adapters" / task.name,
                cache,
                steps=options.steps,
                threads=options.threads,
                say=_say,
            )
    for task in trainable:
        folder = options.work / "adapters" / task.name
        if (folder / "adapter_model.safetensors").exists():
            adapters[task.name] = folder
    if "quality" in options.parts:
        base = resolve_model(QUICKSTART_MODEL, cache)
        for seed in options.seeds:
            router = routers[seed]
            settings = {
                "router": read_manifest(router).version,
                "n": options.n_quality,
                "adapters": sorted(adapters),
            }
            measure_once(
                results,
                f"quality-{seed}",
                settings,
                partial(
                    measure_quality,
                    base,
                    router,
                    adapters,
                    [task for task in tasks if task.name in adapters],
                    n=options.n_quality,
                    threads=options.threads,
                    kept=options.work / "answers.jsonl",
                    say=_say,
                ),
            )
    if "decode" in options.parts:
        base = resolve_model(QUICKSTART_MODEL, cache)
        for batch in options.batches:
            settings = {"router": version, "tokens": 48, "rounds": options.rounds, "batch": batch}
            measure_once(
                results,
                f"decode-{batch}",
                settings,
                partial(
                    measure_decode,
                    base,
                    first,
                    adapters,
                    tokens=48,
                    rounds=options.rounds,
                    batch=batch,
                    threads=options.threads,
                    say=_say,
                ),
            )
    if "report" in options.parts:
        write_report(options.out, kept_results(results))
        _say(f"written: {options.out / 'dlp.md'}, {options.out / 'dlp.json'}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.dlp", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of real data sets; without, skills only")
    parser.add_argument("--work", type=Path, required=True, help="routers, adapters, kept parts")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument(
        "--timing",
        action="store_true",
        help="only the time of routes and of decoding, by the first seed's router",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--n-train", type=int, default=1000, help="prompts per task")
    parser.add_argument("--n-heldout", type=int, default=200, help="prompts per task")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument(
        "--tasks", nargs="*", default=["mawps"], help="real tasks that get an adapter of their own"
    )
    parser.add_argument("--steps", type=int, default=60, help="of an adapter's training")
    parser.add_argument("--n-quality", type=int, default=50, help="prompts decoded per task")
    parser.add_argument("--rounds", type=int, default=5, help="of every timing")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", type=int, default=0, help="0: the library's choice")
    return parser.parse_args()


if __name__ == "__main__":
    main()
