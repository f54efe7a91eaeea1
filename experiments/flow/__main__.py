"""``python -m experiments.flow``: measure what is missing, then write docs/results/flow.{md,json}.

Every result is kept in ``--work`` once it is measured; the same command continues from there.
Several processes may work on different ``--tasks`` of one folder at once.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cluster.adapters.format.manifest import read_manifest as read_adapter_manifest
from cluster.base_model.source import QUICKSTART_MODEL, resolve_model
from cluster.config import Settings, cache_folder
from demo.generator.skills import SKILLS
from experiments.flow.flow_quality import measure_alone, measure_quality
from experiments.flow.flow_report import write_report
from experiments.flow.flow_tasks import (
    COMPOSITES,
    Composite,
    composite_tests,
    format_examples,
    format_tests,
    skill_examples,
    skill_tests,
)
from experiments.flow.flow_timing import measure_timing
from experiments.flow.training import gate, searched
from experiments.kept_results import kept_results, measure_once
from experiments.skill_adapter import train_skill
from router_service.artifacts.router_artifact import read_manifest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("adapters", "alone", "gates", "searches", "quality", "timing", "report")


def main() -> None:
    """Run the parts that were asked for."""
    options = _arguments()
    for name in options.tasks:
        _task(COMPOSITES[name], options)
    if "timing" in options.parts:
        task = COMPOSITES[options.tasks[0]]
        gate_folder = _gate_folder(options, task, options.seeds[0])
        settings = {
            "gate": read_manifest(gate_folder).version,
            "batch": options.batch,
            "tokens": options.tokens,
            "rounds": options.rounds,
        }
        base = resolve_model(QUICKSTART_MODEL, cache_folder(Settings()))
        measure_once(
            options.work / "results",
            "timing",
            settings,
            lambda: measure_timing(
                base,
                _adapters(options, task),
                gate_folder,
                batch=options.batch,
                tokens=options.tokens,
                rounds=options.rounds,
                threads=options.threads,
                say=_say,
            ),
        )
    if "report" in options.parts:
        write_report(options.out, kept_results(options.work / "results"))
        _say(f"written: {options.out / 'flow.md'}, {options.out / 'flow.json'}")


def _task(task: Composite, options: argparse.Namespace) -> None:
    """Measure everything about one composite."""
    results, cache = options.work / "results", cache_folder(Settings())
    folders = _adapters(options, task)
    ordered = (folders[task.format], folders[task.skill])
    if "adapters" in options.parts:
        for alias, folder in folders.items():
            if folder.parent != options.work / "adapters":
                continue
            examples = (
                format_examples(alias, options.n_adapter, 0)
                if alias == task.format
                else skill_examples(alias, options.n_adapter, 0, options.data)
            )
            train_skill(
                examples,
                folder,
                cache,
                description=f"answers in the way of {alias}",
                steps=options.steps,
                threads=options.threads,
                say=_say,
            )
    if "alone" in options.parts:
        settings = {"task": task.name, "adapters": _digests(ordered), "n": options.n_alone}
        measure_once(
            results,
            f"alone-{task.skill}-{task.format}",
            settings,
            lambda: measure_alone(
                resolve_model(QUICKSTART_MODEL, cache),
                task,
                folders,
                skill_tests(task.skill, options.n_alone, options.data),
                format_tests(task.format, options.n_alone),
                threads=options.threads,
                kept=_kept(options, task),
                say=_say,
            ),
        )
    common = {"data": options.data, "cache_dir": cache, "threads": options.threads, "say": _say}
    for seed in options.seeds:
        name = f"{task.skill}-{task.format}-{seed}"
        asked = {"task": task.name, "adapters": _digests(ordered)}
        out = _gate_folder(options, task, seed)
        if "gates" in options.parts:
            recipe = {
                "seed": seed,
                "n": options.n_examples,
                "epochs": options.epochs,
                "learning_rate": options.lr,
            }
            settings = {**asked, **recipe}
            make = partial(gate, task, out, ordered, **recipe, **common)
            measure_once(results, f"gate-{name}", settings, make)
        if "searches" in options.parts:
            recipe = {
                "seed": seed,
                "n": options.n_examples,
                "examples": options.search_examples,
                "steps": options.search_steps,
            }
            settings = {**asked, **recipe}
            out = options.work / "searched" / name
            make = partial(searched, task, out, ordered, **recipe, **common)
            measure_once(results, f"search-{name}", settings, make)
        if "quality" in options.parts:
            _quality(task, folders, seed, options)


def _quality(
    task: Composite, folders: dict[str, Path], seed: int, options: argparse.Namespace
) -> None:
    results = options.work / "results"
    name = f"{task.skill}-{task.format}-{seed}"
    weights = kept_results(results)[f"search-{name}"]["weights"]
    found = _gate_folder(options, task, seed)
    settings = {
        "task": task.name,
        "seed": seed,
        "n": options.n_test,
        "searched": weights,
        "gate": read_manifest(found).version,
    }
    measure_once(
        results,
        f"quality-{name}",
        settings,
        lambda: measure_quality(
            resolve_model(QUICKSTART_MODEL, cache_folder(Settings())),
            task,
            folders,
            composite_tests(task, options.n_test, options.data),
            tuple(weights.items()),
            found,
            threads=options.threads,
            kept=_kept(options, task),
            say=_say,
        ),
    )


def _adapters(options: argparse.Namespace, task: Composite) -> dict[str, Path]:
    """Find the adapters of format and skill: the demo's, or for a real skill a trained or given
    one."""
    trained = options.work / "adapters"
    skill = ROOT / "demo" / "adapters" if task.skill in SKILLS else options.skills or trained
    return {task.format: trained / task.format, task.skill: skill / task.skill}


def _digests(adapters: Sequence[Path]) -> list[str]:
    return [str(read_adapter_manifest(folder)[0].digest) for folder in adapters]


def _kept(options: argparse.Namespace, task: Composite) -> Path:
    file: Path = options.work / f"answers-{task.skill}-{task.format}.jsonl"
    return file


def _gate_folder(options: argparse.Namespace, task: Composite, seed: int) -> Path:
    folder: Path = options.work / "gates" / f"{task.skill}-{task.format}-{seed}"
    return folder


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.flow", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of real data sets; without, skills only")
    parser.add_argument(
        "--skills", type=Path, help="folder of real skills' adapters; without, they are trained"
    )
    parser.add_argument("--work", type=Path, required=True, help="adapters, gates, kept parts")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tasks", nargs="+", choices=sorted(COMPOSITES), help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--n-adapter", type=int, default=600, help="examples of an adapter")
    parser.add_argument("--steps", type=int, default=80, help="of an adapter's training")
    parser.add_argument("--n-examples", type=int, default=200, help="of a composition")
    parser.add_argument("--epochs", type=int, default=2, help="of a gate's training, at most")
    parser.add_argument("--lr", type=float, default=5e-3, help="of a gate's training")
    parser.add_argument("--search-examples", type=int, default=16)
    parser.add_argument("--search-steps", type=int, default=30)
    parser.add_argument("--n-test", type=int, default=100, help="prompts decoded per task")
    parser.add_argument("--n-alone", type=int, default=60, help="prompts of an adapter's own")
    parser.add_argument("--batch", type=int, default=16, help="of the timing")
    parser.add_argument("--tokens", type=int, default=32, help="of the timing")
    parser.add_argument("--rounds", type=int, default=10, help="of the timing")
    parser.add_argument("--threads", type=int, default=0, help="0: the library's choice")
    options = parser.parse_args()
    if options.tasks is None:
        without_data = {c.name for c in COMPOSITES.values() if c.skill in SKILLS}
        options.tasks = [t for t in COMPOSITES if options.data or t in without_data]
    return options


if __name__ == "__main__":
    main()
