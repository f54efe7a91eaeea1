"""Starts vLLM for the tests, and compares its answers with the oracle's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from small_model import Mixture, SmallModel
from vllm import LLM, SamplingParams
from vllm_weighted_lora import mixture_request

COUNT = 12
CLOSE = 1e-3
"""Largest difference of a log-probability."""


def start(small: SmallModel, **options: Any) -> LLM:
    """Start vLLM on the small model."""
    return LLM(
        small.model,
        dtype="float32",
        enforce_eager=True,
        enable_lora=True,
        max_lora_rank=16,
        max_model_len=256,
        max_num_seqs=24,
        block_size=32,
        worker_extension_cls="vllm_weighted_lora.worker.AdapterCalls",
        **options,
    )


def generate(llm: LLM, prompts: Sequence[list[int]], requests: Sequence[Any]) -> list[Any]:
    """Generate for all prompts in one batch."""
    sampling = SamplingParams(
        max_tokens=COUNT, temperature=0, logprobs=1, ignore_eos=True, detokenize=False
    )
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    return llm.generate(inputs, sampling, lora_request=list(requests), use_tqdm=False)


def compare(
    llm: LLM, small: SmallModel, mixtures: Sequence[Mixture], requests: Sequence[Any]
) -> None:
    """Ask for all mixtures in one batch, of different prompts, and check tokens and numbers."""
    prompts = [small.prompt(seed, 5 + 7 * (seed % 5)) for seed in range(len(mixtures))]
    outputs = generate(llm, prompts, requests)
    for prompt, mixture, output in zip(prompts, mixtures, outputs, strict=True):
        wanted = small.answer(prompt, mixture, COUNT)
        (found,) = output.outputs
        assert list(found.token_ids) == wanted.tokens, mixture
        numbers = [
            step[token].logprob for step, token in zip(found.logprobs, found.token_ids, strict=True)
        ]
        assert numbers == pytest.approx(wanted.logprobs, abs=CLOSE), mixture


def on_demand(small: SmallModel, mixture: Mixture) -> Any:
    """Return a request whose adapters vLLM loads as it needs them."""
    return mixture_request(mixture, folders={name: small.folder(name) for name, _ in mixture})
