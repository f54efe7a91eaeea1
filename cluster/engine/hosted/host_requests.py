"""Words requests for the host, and refuses what it cannot do."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.domain.request import GenerationRequest, TokenLogprobs
from cluster.engine.hosted.hosted_requests import HostedSequence
from cluster.engine.hosted.messages import Generate, HostSampling
from cluster.engine.mixing import Mixing
from cluster.engine.spans import Span
from cluster.errors import EngineError, RequestError

MOST_BIASES = 1024
MOST_STOP_TOKENS = 128
"""vLLM has room for so many in each row, and a step with more would fail for all its rows."""


def check_request(
    request: GenerationRequest, mixing: Mixing | None, spans: Sequence[Span], vocab_size: int
) -> None:
    """Refuse what vLLM does not compute.

    Raises:
        EngineError: adapters that are weighed inside the model or change within the sequence.
        RequestError: a token that the model does not have, or more biased or stop tokens than
            there is room for.
    """
    if mixing is not None:
        raise EngineError(
            "engine.kind 'vllm' computes no gate and no layer router; "
            "serve such routers with replicas of kind 'braid'"
        )
    if spans:
        raise EngineError(
            "engine.kind 'vllm' computes a sequence with the same adapters from its first token to "
            "its last: no activated LoRA, and no change of adapters on the way"
        )
    if not all(0 <= token < vocab_size for token in request.prompt_token_ids):
        raise RequestError(f"the model has tokens 0 to {vocab_size - 1}", param="prompt")
    for field, most in (("logit_bias", MOST_BIASES), ("stop_token_ids", MOST_STOP_TOKENS)):
        found = len(getattr(request.sampling, field))
        if found > most:
            raise RequestError(f"{field}: {found} tokens; vLLM takes at most {most}", param=field)


def generate_message(request: HostedSequence, vocab_size: int) -> Generate:
    """Return what starts a sequence at the host."""
    sequence = request.sequence
    asked = sequence.request.sampling
    resumed = sequence.num_generated
    return Generate(
        id=request.number,
        token_ids=list(sequence.token_ids),
        resumed=resumed,
        adapters=request.adapters,
        namespace=sequence.namespace,
        sampling=HostSampling(
            # A prompt that is only scored needs no token, and vLLM generates one at least.
            max_tokens=max(1, sequence.max_len - sequence.num_tokens),
            min_tokens=max(0, asked.min_tokens - resumed),
            stop_token_ids=tuple(t for t in sequence.stop_token_ids if 0 <= t < vocab_size),
            temperature=asked.temperature,
            top_p=asked.top_p,
            top_k=asked.top_k,
            min_p=asked.min_p,
            seed=asked.seed,
            presence_penalty=asked.presence_penalty,
            frequency_penalty=asked.frequency_penalty,
            repetition_penalty=asked.repetition_penalty,
            logit_bias=tuple((t, bias) for t, bias in asked.logit_bias if t < vocab_size),
            grammar=asked.grammar,
            logprobs=asked.logprobs,
            prompt_logprobs=None if resumed else asked.prompt_logprobs,
        ),
    )


def token_logprobs(
    entries: Sequence[tuple[float, list[tuple[int, float]]]],
) -> tuple[TokenLogprobs, ...]:
    """Return log-probabilities as requests have them."""
    return tuple(TokenLogprobs(value, tuple(top)) for value, top in entries)
