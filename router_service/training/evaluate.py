"""How often the greedy answer of a base model or an adapter is exactly the wanted one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.errors import AdapterError
from router_service.training.base_model import load_base, quiet_peft
from router_service.training.encoding import chat_prompt_ids
from router_service.training.jsonl import Example

_SPARE_TOKENS = 4
"""Room beyond the longest wanted answer: what runs on has already failed."""


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
        if answer.strip() != example.completion.strip()
    )
    return EvaluationReport(
        n=len(examples), correct=len(examples) - len(mistakes), mistakes=mistakes
    )


class Evaluator:
    """One base model in memory, evaluated by itself or under one adapter after another."""

    def __init__(self, base: Path, *, threads: int = 0, batch_size: int = 20) -> None:
        if threads:
            torch.set_num_threads(threads)
        self._model, self._tokenizer = load_base(base)
        self._batch_size = batch_size

    def evaluate(
        self,
        examples: Sequence[Example],
        *,
        adapter: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> EvaluationReport:
        """Answer every prompt greedily and compare; `progress` gets prompts done and in all.

        Raises:
            AdapterError: `adapter` is not a PEFT folder that fits the base model.
        """
        model = self._with_adapter(adapter)
        try:
            answers = self._answer(model, examples, progress)
        finally:
            if adapter is not None:
                self._model = model.unload()
        return score_answers(examples, answers)

    def _with_adapter(self, adapter: Path | None) -> Any:
        if adapter is None:
            return self._model
        from peft import PeftModel

        try:
            with quiet_peft():
                return PeftModel.from_pretrained(self._model, adapter).eval()
        except (OSError, ValueError, RuntimeError) as error:
            raise AdapterError(f"{adapter}: cannot be loaded: {error}") from error

    def _answer(
        self,
        model: Any,
        examples: Sequence[Example],
        progress: Callable[[int, int], None] | None,
    ) -> list[str]:
        answers: list[str] = []
        for start in range(0, len(examples), self._batch_size):
            part = examples[start : start + self._batch_size]
            answers += self._generate(model, part)
            if progress:
                progress(len(answers), len(examples))
        return answers

    @torch.inference_mode()
    def _generate(self, model: Any, examples: Sequence[Example]) -> list[str]:
        tokenizer = self._tokenizer
        prompts = [chat_prompt_ids(tokenizer, example.prompt) for example in examples]
        wanted = tokenizer([example.completion for example in examples])["input_ids"]
        width = max(map(len, prompts))
        input_ids = torch.full((len(prompts), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(input_ids)
        for row, prompt in enumerate(prompts):
            input_ids[row, -len(prompt) :] = torch.tensor(prompt)
            mask[row, -len(prompt) :] = 1
        output = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=max(map(len, wanted)) + _SPARE_TOKENS,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts: list[str] = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        return texts
