"""Score the demo skills: the base model, each skill's own adapter, and the router's choice."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from cluster.base_model.source import QUICKSTART_MODEL, ModelLocation, resolve_model
from cluster.errors import AdapterError
from demo.generator.build import DEMO_SEED
from demo.generator.datasets import generate
from demo.generator.report import write_report
from demo.generator.results import (
    DemoResults,
    Sample,
    SkillResult,
    read_results,
)
from demo.generator.results_file import write_result_file
from demo.generator.skills import SKILLS
from demo.generator.wording_results import FILE as WORDINGS_FILE
from demo.generator.wording_results import read_wording_results
from training.evaluation.held_out import EvaluationReport, Evaluator, score_answers
from training.export import WEIGHTS_FILE
from training.jsonl import Example, digest_examples

N_HELDOUT = 50

Progress = Callable[[str, str, int, int], None]
"""Called with skill, column ("base", "adapter", "routed"), prompts done and prompts in all."""


def evaluate_demo(
    adapters_dir: Path,
    cache_dir: Path,
    results_path: Path,
    report_path: Path,
    *,
    skills: tuple[str, ...] = tuple(SKILLS),
    n: int = N_HELDOUT,
    answer: Callable[[str], str] | None = None,
    router: str | None = None,
    workers: int = 1,
    threads: int = 0,
    progress: Progress | None = None,
) -> DemoResults:
    """Fill all three columns for `skills` and write the JSON results and the Markdown report.

    Each skill is asked `n` held-out prompts. `answer` gives the routed answer to a prompt (decoded
    greedily, as one user message); it is called from `workers` threads at once, and `router` is its
    name in the report. Base and adapter scores already in `results_path` are kept if base, adapter
    and examples are still the same; without `answer`, so is the routed score. Results are written
    skill by skill, so an interrupted evaluation continues from there.

    Raises:
        AdapterError: a skill's adapter is missing from `adapters_dir`, or does not load.
        ModelSourceError: the base model cannot be had.
        ConfigError: `results_path` has something else.
    """
    report = progress or _silent
    base = resolve_model(QUICKSTART_MODEL, cache_dir)
    results = read_results(results_path) or DemoResults.empty()
    if answer is None:
        router = results.router
    local = _LocalScores(base, threads, report)
    for skill in skills:
        examples = generate(skill, "heldout", n, DEMO_SEED)
        adapter = adapters_dir / skill
        fingerprint = _fingerprint(base, adapter, examples)
        result = results.skills.get(skill)
        if result is None or result.fingerprint != fingerprint:
            result = local.score(skill, examples, adapter, fingerprint)
        if answer is not None:
            count = partial(report, skill, "routed")
            routed = _ask_all(answer, examples, workers, count)
            result = result.model_copy(update={"routed": routed.correct})
        results = DemoResults(
            base_model=base.model_id,
            base_digest=base.digest,
            seed=DEMO_SEED,
            router=router,
            skills={**results.skills, skill: result},
        )
        write_result_file(results_path, results)
    wordings = read_wording_results(results_path.with_name(WORDINGS_FILE))
    write_report(report_path, results, wordings)
    return results


class _LocalScores:
    """Base and adapter scores, from a model that is loaded when the first is needed."""

    def __init__(self, base: ModelLocation, threads: int, progress: Progress) -> None:
        self._base = base
        self._threads = threads
        self._progress = progress
        self._evaluator: Evaluator | None = None

    def score(
        self, skill: str, examples: Sequence[Example], adapter: Path, fingerprint: str
    ) -> SkillResult:
        if self._evaluator is None:
            self._evaluator = Evaluator(self._base, threads=self._threads)
        by_base, by_adapter = (
            self._evaluator.evaluate(
                examples,
                adapter=folder,
                progress=partial(self._progress, skill, column),
            )
            for column, folder in (("base", None), ("adapter", adapter))
        )
        return SkillResult(
            fingerprint=fingerprint,
            n=by_base.n,
            base=by_base.correct,
            adapter=by_adapter.correct,
            sample=_sample(examples, by_base),
        )


def _sample(examples: Sequence[Example], by_base: EvaluationReport) -> Sample:
    """Make a sample of the first example, with the base model's answer."""
    first = examples[0]
    wrong = {mistake.prompt: mistake.answered for mistake in by_base.mistakes}
    return Sample(
        prompt=first.prompt,
        wanted=first.completion,
        base=wrong.get(first.prompt, first.completion),
    )


def _ask_all(
    answer: Callable[[str], str],
    examples: Sequence[Example],
    workers: int,
    progress: Callable[[int, int], None],
) -> EvaluationReport:
    answers = []
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for text in pool.map(answer, [example.prompt for example in examples]):
            answers.append(text)
            progress(len(answers), len(examples))
    return score_answers(examples, answers)


def _fingerprint(base: ModelLocation, adapter: Path, examples: Sequence[Example]) -> str:
    try:
        weights = hashlib.sha256((adapter / WEIGHTS_FILE).read_bytes()).hexdigest()
    except OSError as error:
        raise AdapterError(f"{adapter}: no adapter: {error}") from error
    parts = "\n".join((base.digest, weights, digest_examples(examples)))
    return hashlib.sha256(parts.encode()).hexdigest()


def _silent(skill: str, column: str, done: int, total: int) -> None:
    del skill, column, done, total
