"""transformers' ``generate`` and PEFT's mixed batches: what the engine is compared with."""

import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from benchmarks.engine.cases import Mixture


class _StepTimes(transformers.StoppingCriteria):
    """Never stops; notes the time of each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, *_scores: Any, **_options: Any) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


class Reference:
    """The base as transformers loads it, and a second one with the adapters as PEFT loads them.

    PEFT changes a model in place, which would slow the base down; so there are two.

    Args:
        model: folder of the base model.
        adapters: PEFT folders, in the order of their numbers.
        dtype: of both models.
    """

    def __init__(self, model: Path, adapters: Sequence[Path], dtype: torch.dtype) -> None:
        self._folder = model
        self._dtype = dtype
        self._base = self._load()
        self._with_adapters: Any = None
        self._folders = tuple(adapters)

    def name(self, mixtures: Sequence[Mixture]) -> str:
        """Return the name of the program that computes this batch."""
        return "PEFT" if any(mixtures) else "transformers"

    def generate(
        self, prompts: Sequence[Sequence[int]], mixtures: Sequence[Mixture], output: int
    ) -> tuple[float, float | None]:
        """Generate a batch greedily, each request the base or one adapter with weight 1.

        One adapter for all requests is made the active one; otherwise PEFT is given each request's.

        Returns:
            Seconds in all, and the median of the decode steps (None: fewer than two).
        """
        model = self._model(mixtures)
        options = self._select(model, mixtures)
        times = _StepTimes()
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            started = time.perf_counter()
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=output,
                min_new_tokens=output,
                do_sample=False,
                stopping_criteria=transformers.StoppingCriteriaList([times]),
                **options,
            )
            seconds = time.perf_counter() - started
        gaps = [now - before for before, now in itertools.pairwise(times.times)]
        return seconds, statistics.median(gaps) if len(gaps) > 1 else None

    def logprobs(
        self, prompt: Sequence[int], answer: Sequence[int], mixture: Mixture
    ) -> torch.Tensor:
        """Compute log-probabilities before each token of the answer, fp32 [len(answer),
        vocabulary].

        A mixture is merged into one adapter of the concatenated rank, which is exact.
        """
        model = self._model([mixture])
        ids = torch.tensor([[*prompt, *answer]])
        with torch.inference_mode():
            if mixture:
                model.set_adapter(self._merged(model, mixture))
            logits = model(input_ids=ids, logits_to_keep=len(answer) + 1).logits[0, :-1]
            found: torch.Tensor = logits.float().log_softmax(dim=-1)
        return found

    def _load(self) -> Any:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            self._folder, dtype=self._dtype, local_files_only=True
        )
        return model.eval()

    def _model(self, mixtures: Sequence[Mixture]) -> Any:
        if not any(mixtures):
            return self._base
        if self._with_adapters is None:
            first, *others = self._folders
            model: Any = peft.PeftModel.from_pretrained(self._load(), str(first), adapter_name="0")
            for number, folder in enumerate(others, start=1):
                model.load_adapter(str(folder), adapter_name=str(number))
            self._with_adapters = model.eval()
        return self._with_adapters

    def _select(self, model: Any, mixtures: Sequence[Mixture]) -> dict[str, Any]:
        if not any(mixtures):
            return {}
        if any(len(mixture) > 1 or weight != 1.0 for mixture in mixtures for _, weight in mixture):
            raise ValueError("PEFT's mixed batches have one adapter of weight 1 for each request")
        names = [str(mixture[0][0]) if mixture else "__base__" for mixture in mixtures]
        if len(set(names)) == 1:
            model.set_adapter(names[0])
            return {}
        return {"adapter_names": names}

    def _merged(self, model: Any, mixture: Mixture) -> str:
        if len(mixture) == 1 and mixture[0][1] == 1.0:
            return str(mixture[0][0])
        name = "_".join(f"{number}x{weight:.6f}".replace(".", "p") for number, weight in mixture)
        if name not in model.peft_config:
            model.add_weighted_adapter(
                [str(number) for number, _ in mixture],
                [weight for _, weight in mixture],
                name,
                combination_type="cat",
            )
            model.eval()
        return name
