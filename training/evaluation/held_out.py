"""Share of held-out prompts to which a base model or adapter gives exactly the wanted answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.base_model.source import ModelLocation
from training.evaluation.answer_metrics import is_exact
from training.evaluation.evaluation_run import SPARE_TOKENS, longest_sequence
from training.evaluation.local_engine import Asked, LocalEngine, Progress
from training.evaluation.records import Record
from training.jsonl import Example


@dataclass(frozen=True)
class Mistake:
    """A wrong answer."""

    prompt: str
    wanted: str
    answered: str


@dataclass(frozen=True)
class EvaluationReport:
    """Exact matches over a set of examples."""

    n: int
    correct: int
    mistakes: tuple[Mistake, ...]

    @property
    def accuracy(self) -> float:
        """Share of exact matches, in [0, 1]."""
        return self.correct / self.n


def score_answers(examples: Sequence[Example], answers: Sequence[str]) -> EvaluationReport:
    """Compare answers with the wanted ones; white space around an answer does not count."""
    mistakes = tuple(
        Mistake(example.prompt, example.completion, answer)
        for example, answer in zip(examples, answers, strict=True)
        if not is_exact(answer, example.completion)
    )
    return EvaluationReport(
        n=len(examples), correct=len(examples) - len(mistakes), mistakes=mistakes
    )


class Evaluator:
    """A base model by itself or under one adapter, through the engine that serves them."""

    def __init__(self, base: ModelLocation, *, threads: int = 0) -> None:
        self._base = base
        self._threads = threads

    def evaluate(
        self,
        examples: Sequence[Example],
        *,
        adapter: Path | None = None,
        progress: Progress | None = None,
    ) -> EvaluationReport:
        """Answer every prompt greedily and compare; `progress` gets prompts done and in all.

        The adapter may be of another copy of the base, by name.

        Raises:
            AdapterError: `adapter` is not a PEFT folder that fits the base model.
        """
        folders = {} if adapter is None else {adapter.name: adapter}
        mixture = tuple((alias, 1.0) for alias in folders)
        records = [Record(example.prompt, example.completion) for example in examples]
        with LocalEngine(
            self._base,
            folders,
            threads=self._threads,
            max_model_len=longest_sequence(self._base, records),
            base_check="name",
        ) as engine:
            limit = max(len(engine.completion_ids(e.completion)) for e in examples) + SPARE_TOKENS
            asked = [Asked(example.prompt, mixture) for example in examples]
            answers = engine.answers(asked, limit, progress)
        return score_answers(examples, answers)
