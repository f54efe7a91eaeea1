"""``python -m experiments.milora``: measure what is missing, then write docs/results/milora.*.

Every result is kept in ``--work`` once it is measured; the same command continues from there.
``--timing`` measures tokens per second instead, for which the machine should do nothing else.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from cluster.base_model.source import QUICKSTART_MODEL, ModelLocation, resolve_model
from cluster.config import Settings, cache_folder
from experiments.kept_results import kept_results, measure_once
from experiments.milora.milora_quality import METHODS, TrainingSize, measure, train
from experiments.milora.milora_report import write_report
from experiments.milora.milora_tasks import TASKS, MiloraTaskData, Tokens, load_task
from experiments.milora.milora_timing import measure_decode
from experiments.milora.untrained import measure_untrained
from training.encoding import chat_prompt_ids
from training.evaluation.records import Record

_BASE = "base"
ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Run the parts that were asked for."""
    options = _arguments()
    results = options.work / "results"
    if not options.report_only:
        base = resolve_model(QUICKSTART_MODEL, cache_folder(Settings()))
        if options.timing:
            _timing(options, base, results)
        else:
            _quality(options, base, results)
    write_report(options.out, kept_results(results))
    _say(f"written: {options.out / 'milora.md'}, {options.out / 'milora.json'}")


def _quality(options: argparse.Namespace, base: ModelLocation, results: Path) -> None:
    size = TrainingSize(
        rank=options.rank,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        dev_examples=options.dev_examples,
        eval_every=options.eval_every,
        patience=options.patience,
    )
    data = {
        "tasks": options.tasks,
        "n_train": options.n_train,
        "n_test": options.n_test,
        "max_train_tokens": options.max_train_tokens,
        "max_test_tokens": options.max_test_tokens,
    }
    tokens = _token_counter(base)

    def load(seed: int) -> list[MiloraTaskData]:
        limits = {key: value for key, value in data.items() if key != "tasks"}
        return [
            load_task(options.data, name, seed=seed, tokens=tokens, **limits)
            for name in options.tasks
        ]

    if _BASE in options.methods:
        settings = data | {"base": base.digest}
        measure_once(
            results,
            "quality-base",
            settings,
            lambda: measure(
                base, None, load(0), is_milora=False, threads=options.threads, say=_say
            ),
        )
        measure_once(results, "untrained", settings, lambda: measure_untrained(base, load(0)))
    trained = [method for method in options.methods if method != _BASE]
    for seed in options.seeds:
        for method in trained:
            settings = data | asdict(size) | {"base": base.digest, "method": method, "seed": seed}
            measure_once(
                results,
                f"quality-{method}-{seed}",
                settings,
                partial(_train_and_measure, options, base, size, settings, load),
            )


def _train_and_measure(
    options: argparse.Namespace,
    base: ModelLocation,
    size: TrainingSize,
    settings: dict[str, Any],
    load: Callable[[int], list[MiloraTaskData]],
) -> dict[str, Any]:
    method, seed = settings["method"], settings["seed"]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    out = options.work / "adapters" / f"{method}-{seed}-{digest[:8]}"
    tasks = load(seed)
    cache = cache_folder(Settings())
    train(method, tasks, out, cache, size, seed=seed, threads=options.threads, say=_say)
    is_milora = METHODS[method] is not None
    return {
        "method": method,
        "seed": seed,
        "dropped": {task.name: task.dropped for task in tasks},
        **measure(base, out, tasks, is_milora=is_milora, threads=options.threads, say=_say),
    }


def _timing(options: argparse.Namespace, base: ModelLocation, results: Path) -> None:
    for batch in options.batches:
        settings = {
            "base": base.digest,
            "batch": batch,
            "tokens": options.tokens,
            "rounds": options.rounds,
            "rank": options.timing_rank,
            "experts": options.experts,
            "threads": options.threads,
        }
        measure_once(
            results,
            f"timing-{batch}",
            settings,
            partial(
                measure_decode,
                base,
                batch=batch,
                tokens=options.tokens,
                rounds=options.rounds,
                rank=options.timing_rank,
                experts=options.experts,
                threads=options.threads,
                say=_say,
            ),
        )


def _token_counter(base: ModelLocation) -> Tokens:
    import transformers

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(base.path, local_files_only=True)

    def count(record: Record) -> int:
        texts = record.choices or (record.completion,)
        answers = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        return len(chat_prompt_ids(tokenizer, record.prompt)) + max(answers) + 1

    return count


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.milora", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the data sets; not for --timing")
    parser.add_argument("--work", type=Path, required=True, help="adapters and kept parts")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--timing", action="store_true", help="tokens per second instead")
    parser.add_argument("--report-only", action="store_true", help="write what is kept")
    parser.add_argument("--threads", type=int, default=0, help="0: the library's choice")
    quality = parser.add_argument_group("quality")
    quality.add_argument(
        "--tasks", nargs="+", choices=TASKS, default=["boolq", "arc_easy", "mawps"]
    )
    quality.add_argument(
        "--methods", nargs="+", choices=(_BASE, *METHODS), default=[_BASE, *METHODS]
    )
    quality.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    quality.add_argument("--n-train", type=int, default=150, help="examples per task")
    quality.add_argument("--n-test", type=int, default=80, help="examples per task")
    quality.add_argument("--max-train-tokens", type=int, default=80)
    quality.add_argument("--max-test-tokens", type=int, default=160)
    quality.add_argument("--rank", type=int, default=16)
    quality.add_argument("--steps", type=int, default=50)
    quality.add_argument("--batch-size", type=int, default=8)
    quality.add_argument("--learning-rate", type=float, default=2e-3)
    quality.add_argument("--dev-examples", type=int, default=24)
    quality.add_argument("--eval-every", type=int, default=15)
    quality.add_argument("--patience", type=int, default=2)
    timing = parser.add_argument_group("timing")
    timing.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    timing.add_argument("--tokens", type=int, default=64, help="decoded per request")
    timing.add_argument("--rounds", type=int, default=9, help="medians are over so many")
    timing.add_argument("--timing-rank", type=int, default=32, help="of all adapters together")
    timing.add_argument("--experts", type=int, default=8, help="of the mixture of experts")
    options = parser.parse_args()
    if options.data is None and not (options.timing or options.report_only):
        parser.error("--data is needed")
    return options


if __name__ == "__main__":
    main()
