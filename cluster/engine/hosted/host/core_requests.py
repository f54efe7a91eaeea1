"""Translates sequences into vLLM's requests, and what it computes back."""

import time
from typing import Any

from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest
from vllm_weighted_lora import mixture_request

from cluster.engine.hosted.messages import Generate, HostSampling, HostTokens

_GOLDEN = 0x9E3779B97F4A7C15
_SEEDS = 1 << 63
Entry = tuple[float, list[tuple[int, float]]]
"""(log-probability of a token, (token, log-probability) of the likeliest ones)."""


def core_request(message: Generate, *, draws_by_position: bool) -> EngineCoreRequest:
    """Return vLLM's request for a sequence.

    Args:
        message: the sequence.
        draws_by_position: a seed gives each position its draw. Else draws are a stream that begins
            with the request, and the rest of a resumed sequence gets another one, so that it does
            not repeat the draws of its beginning.
    """
    adapters = message.adapters
    params = sampling_params(message.sampling)
    if params.seed is not None and not draws_by_position:
        params.seed = (params.seed + message.resumed * _GOLDEN) % _SEEDS
    return EngineCoreRequest(
        request_id=str(message.id),
        prompt_token_ids=message.token_ids,
        mm_features=None,
        sampling_params=params,
        pooling_params=None,
        arrival_time=time.time(),
        lora_request=mixture_request(adapters, message.namespace) if adapters else None,
        # Keys and values are found again within a namespace alone, whatever adapters are called.
        cache_salt=message.namespace,
        data_parallel_rank=None,
    )


def sampling_params(asked: HostSampling) -> SamplingParams:
    """Return vLLM's parameters.

    Its constructor refuses or moves values that its sampler computes with: temperatures above 2 and
    below 0.01, penalties beyond 2. They are set afterwards, as they were asked for.
    """
    params = SamplingParams(
        max_tokens=asked.max_tokens,
        min_tokens=min(asked.min_tokens, asked.max_tokens),
        stop_token_ids=list(asked.stop_token_ids),
        temperature=min(asked.temperature, 1.0),
        top_p=asked.top_p,
        top_k=asked.top_k,
        min_p=asked.min_p,
        seed=asked.seed,
        repetition_penalty=asked.repetition_penalty,
        logprobs=asked.logprobs,
        prompt_logprobs=asked.prompt_logprobs,
        detokenize=False,
    )
    params.temperature = asked.temperature
    params.presence_penalty = asked.presence_penalty
    params.frequency_penalty = asked.frequency_penalty
    if asked.logit_bias:
        params.logit_bias = dict(asked.logit_bias)
    if asked.grammar:
        params.structured_outputs = StructuredOutputsParams(grammar=asked.grammar)
        params.structured_outputs._backend = "guidance"
    return params


def host_tokens(output: EngineCoreOutput, asked: HostSampling) -> HostTokens:
    """Return what a step brought for a sequence."""
    stats = output.prefill_stats
    return HostTokens(
        id=int(output.request_id),
        token_ids=list(output.new_token_ids),
        finish="" if output.finish_reason is None else str(output.finish_reason),
        cached=None if stats is None else stats.num_cached_tokens,
        logprobs=_entries(output.new_logprobs, asked.logprobs),
        prompt_logprobs=_entries(output.new_prompt_logprobs_tensors, asked.prompt_logprobs),
    )


def _entries(table: Any, top: int | None) -> list[Entry]:
    """Return the rows of vLLM's table: first the token itself, then the likeliest, best first."""
    if table is None or top is None:
        return []
    ids, values = table.logprob_token_ids.tolist(), table.logprobs.tolist()
    return [
        (row_values[0], list(zip(row_ids[1 : top + 1], row_values[1 : top + 1], strict=True)))
        for row_ids, row_values in zip(ids, values, strict=True)
    ]
