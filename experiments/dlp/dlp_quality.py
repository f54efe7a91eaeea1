"""Answers under the oracle's adapter, the routed mixture, and the likeliest adapter alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.base_model.source import ModelLocation
from experiments.answers import KeptAnswers
from experiments.dlp.dlp_tasks import DlpTaskData
from experiments.dlp.routing import load_any
from experiments.skill_adapter import train_skill
from router_service.dlp.dlp_options import DlpOptions
from training.evaluation.answer_metrics import has_value, is_exact, wilson
from training.evaluation.evaluation_run import SPARE_TOKENS, longest_sequence
from training.evaluation.local_engine import Asked, LocalEngine, Weights
from training.evaluation.records import Record
from training.jsonl import Example

WAYS = ("base", "oracle", "routed", "top1")
MAX_TOKENS = 60
"""Of an answer; the longest wanted one has fewer."""

_TOP1 = DlpOptions(method="top_k", top_k=1)


def train_real_adapter(
    task: DlpTaskData,
    out: Path,
    cache_dir: Path,
    *,
    steps: int,
    threads: int,
    say: Callable[[str], None],
) -> Path:
    """Train the adapter of a task that the demo has none for; continues an interrupted training."""
    examples = [Example(record.prompt, record.completion) for record in task.train]
    return train_skill(
        examples,
        out,
        cache_dir,
        description=f"answers {task.name}",
        steps=steps,
        threads=threads,
        say=say,
    )


def measure_quality(
    base: ModelLocation,
    router_path: Path,
    adapters: dict[str, Path],
    tasks: Sequence[DlpTaskData],
    *,
    n: int,
    threads: int,
    kept: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Count right answers by task and way, over the first ``n`` held-out prompts of each task.

    A prompt is decoded once for each different mixture: where the router chooses the oracle's
    adapter with weight 1, the answers are the same by construction and counted as such. Answers
    are kept in the file ``kept``.
    """
    routed, likeliest = load_any(router_path), load_any(router_path, options=_TOP1)
    # Only adapters that exist can be chosen, by both; the base is always one.
    allowed = frozenset({"", *adapters})
    rows: list[tuple[str, Record, dict[str, Weights]]] = []
    for task in tasks:
        for record in task.heldout[:n]:
            ways: dict[str, Weights] = {
                "base": (),
                "oracle": ((task.name, 1.0),),
                "routed": routed.route(record.prompt, allowed).weights,
                "top1": likeliest.route(record.prompt, allowed).weights,
            }
            rows.append((task.name, record, ways))
    asked = list(dict.fromkeys(Asked(r.prompt, w) for _, r, ways in rows for w in ways.values()))
    records = [record for _, record, _ in rows]
    limit = max(len(r.completion) for r in records)  # a token is a character or more
    limit = min(limit, MAX_TOKENS) + SPARE_TOKENS
    answers = KeptAnswers(kept, base.digest, adapters)
    if answers.missing(asked, limit):
        with LocalEngine(
            base,
            adapters,
            threads=threads,
            max_model_len=longest_sequence(base, records) + limit,
            base_check="name",
        ) as engine:
            answers.fill(asked, limit, engine.answers, say)
    by_task: dict[str, dict[str, int]] = {}
    for name, record, ways in rows:
        counts = by_task.setdefault(name, dict.fromkeys(("n", *WAYS), 0))
        counts["n"] += 1
        for way, mixture in ways.items():
            counts[way] += _right(record, answers.get(Asked(record.prompt, mixture), limit))
    total = {key: sum(counts[key] for counts in by_task.values()) for key in ("n", *WAYS)}
    return {
        "by_task": by_task,
        "total": total,
        "interval": {way: wilson(total[way], total["n"]) for way in WAYS},
        "routed_to_oracle": total["routed"] / max(1, total["oracle"]),
        "decoded": len(asked),
        "mean_fan_out": sum(len(ways["routed"]) for *_, ways in rows) / len(rows),
        "router": routed.version,
    }


def _right(record: Record, text: str) -> bool:
    if isinstance(record.answer, int | float):
        return has_value(text, record.answer)
    return is_exact(text, record.completion)
