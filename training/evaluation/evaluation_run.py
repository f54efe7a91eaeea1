"""One evaluation: the base, an adapter, a mixture or a router, on a file, by one metric."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.base_model.source import ModelLocation, resolve_model
from cluster.errors import TrainingDataError
from training.encoding import chat_prompt_ids
from training.evaluation.answer_metrics import has_value, is_exact, wilson
from training.evaluation.local_engine import Asked, Likelihood, LocalEngine, Weights
from training.evaluation.records import Record, read_eval_records
from training.evaluation.target import EvalConfig, Metric, Target, check_target

Progress = Callable[[str, int, int], None]
"""Called with what is counted, how many are done, and how many there are."""

SPARE_TOKENS = 4
"""Room beyond the longest wanted answer: what runs on has already failed."""
MAX_CHOICES = 26


@dataclass(frozen=True, slots=True)
class Scored:
    """One line of the data."""

    prompt: str
    wanted: str
    answered: str  # for perplexity the completion itself
    score: float  # 1 right, 0 wrong; for perplexity nats per token
    mixture: Weights


@dataclass(frozen=True, slots=True)
class EvalReport:
    """An evaluation's outcome."""

    metric: Metric
    n: int
    value: float
    """Share of right answers in [0, 1], or the perplexity per token."""
    interval: tuple[float, float] | None
    """Wilson's 95 % interval of a share."""
    target: str
    """Name of what was evaluated."""
    version: str
    """Digest of the router, else of the adapters and weights; "" for the base."""
    base_model: str
    base_digest: str
    mean_fan_out: float
    seconds: float
    scored: tuple[Scored, ...]

    def as_json(self) -> dict[str, Any]:
        """Convert everything to plain types."""
        return asdict(self)


def evaluate(config: EvalConfig, progress: Progress | None = None) -> EvalReport:
    """Score one target on one file.

    Raises:
        ConfigError: more than one target, an alias that is not there, or a router that does not
            fit.
        TrainingDataError: a line is wrong, or lacks what the metric needs; names file and line.
        AdapterError: an adapter does not fit the base.
        ModelSourceError: the base model cannot be had.
    """
    records = read_eval_records(config.data)[: config.limit]
    choices = _check(config, records)
    check_target(config)
    base = resolve_model(config.base, config.cache_dir)
    target = Target(config, base)
    asked = [Asked(r.prompt, target.mixture(r.prompt)) for r in records]
    used = {alias for item in asked for alias, _ in item.mixture}
    folders = {a: path for a, path in target.folders.items() if a in used}
    started = time.monotonic()
    longest = longest_sequence(base, records, choices)
    report = progress or _silent
    with LocalEngine(
        base,
        folders,
        threads=config.threads,
        max_model_len=longest,
        base_check=config.base_check,
        part=target.part,
    ) as engine:
        scored = _score(config.metric, engine, records, asked, choices, report)
        version = target.version(engine.manifests)
    value, interval = _summary(config.metric, scored)
    return EvalReport(
        metric=config.metric,
        n=len(scored),
        value=value,
        interval=interval,
        target=target.name,
        version=version,
        base_model=base.model_id,
        base_digest=base.digest,
        mean_fan_out=sum(len(item.mixture) for item in asked) / len(asked),
        seconds=time.monotonic() - started,
        scored=tuple(s.scored for s in scored),
    )


@dataclass(frozen=True, slots=True)
class _Weighed:
    scored: Scored
    tokens: int = 1


def _score(
    metric: Metric,
    engine: LocalEngine,
    records: Sequence[Record],
    asked: Sequence[Asked],
    choices: Sequence[tuple[str, ...]],
    report: Progress,
) -> list[_Weighed]:
    if metric == "perplexity":
        found = engine.likelihoods(
            asked, [r.completion for r in records], lambda n, total: report("scored", n, total)
        )
        return [
            _Weighed(
                Scored(r.prompt, r.completion, r.completion, -own.logprob / own.tokens, a.mixture),
                own.tokens,
            )
            for r, own, a in zip(records, found, asked, strict=True)
        ]
    if metric == "choice":
        answers = _choose(engine, asked, choices, report)
    else:
        limit = max(len(engine.completion_ids(r.completion)) for r in records) + SPARE_TOKENS
        answers = engine.answers(asked, limit, lambda n, total: report("answered", n, total))
    return [
        _Weighed(Scored(r.prompt, r.completion, text, float(_right(metric, r, text)), a.mixture))
        for r, text, a in zip(records, answers, asked, strict=True)
    ]


def _right(metric: Metric, record: Record, answered: str) -> bool:
    if metric == "value":
        assert isinstance(record.answer, int | float)
        return has_value(answered, record.answer)
    return is_exact(answered, record.completion)


def _choose(
    engine: LocalEngine,
    asked: Sequence[Asked],
    choices: Sequence[tuple[str, ...]],
    report: Progress,
) -> list[str]:
    """Choose the likeliest choice of each prompt; of equal ones the first."""
    flat = [(item, choice) for item, own in zip(asked, choices, strict=True) for choice in own]
    found = engine.likelihoods(
        [item for item, _ in flat],
        [choice for _, choice in flat],
        lambda n, total: report("scored", n, total),
    )
    rest = iter(found)
    chosen = []
    for own in choices:
        likelihoods: list[Likelihood] = [next(rest) for _ in own]
        best = max(range(len(own)), key=lambda i, of=likelihoods: (of[i].logprob, -i))  # type: ignore[misc]
        chosen.append(own[best])
    return chosen


def _check(config: EvalConfig, records: Sequence[Record]) -> list[tuple[str, ...]]:
    """List the choices of each record; raises TrainingDataError if the metric lacks something."""
    if config.metric == "value":
        for number, record in enumerate(records, 1):
            if not isinstance(record.answer, int | float):
                raise TrainingDataError(
                    f"{config.data}: example {number}: answer: the metric needs a number"
                )
    if config.metric != "choice":
        return []
    common = tuple(sorted({record.completion for record in records}))
    if not 2 <= len(common) <= MAX_CHOICES and not all(r.choices for r in records):
        raise TrainingDataError(
            f"{config.data}: {len(common)} different completions are not a choice; give each line "
            f'its "choices", or have 2 to {MAX_CHOICES}'
        )
    return [record.choices or common for record in records]


def longest_sequence(
    base: ModelLocation, records: Sequence[Record], choices: Sequence[tuple[str, ...]] = ()
) -> int:
    """Count the tokens of the longest prompt with the longest answer, and room to run on."""
    import transformers

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(base.path, local_files_only=True)
    texts = {r.completion for r in records} | {c for own in choices for c in own}
    answer = max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    prompt = max(len(chat_prompt_ids(tokenizer, r.prompt)) for r in records)
    return int(prompt + answer + 2 * SPARE_TOKENS)


def _summary(
    metric: Metric, scored: Sequence[_Weighed]
) -> tuple[float, tuple[float, float] | None]:
    if metric == "perplexity":
        tokens = sum(item.tokens for item in scored)
        return math.exp(sum(item.scored.score * item.tokens for item in scored) / tokens), None
    right = sum(int(item.scored.score) for item in scored)
    return right / len(scored), wilson(right, len(scored))


def _silent(what: str, done: int, total: int) -> None:
    del what, done, total
