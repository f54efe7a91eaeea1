"""Words requests for the host, and refuses what it cannot do."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.domain.request import GenerationRequest, TokenLogprobs
from cluster.engine.hosted.hosted_requests import HostedSequence
from cluster.engine.hosted.messages import Generate, HostSampling
from cluster.engine.mixing import Mixing
from cluster.engine.spans import Span
from cluster.errors import EngineError, RequestError

_SEED_BITS = 63
_GOLDEN = 0x9E3779B97F4A7C15


def check_request(
    request: GenerationRequest, mixing: Mixing | None, spans: Sequence[Span], vocab_size: int
) -> None:
    """Refuse what vLLM does not compute.

    Raises:
        EngineError: adapters that are weighed inside the model or change within the sequence.
        RequestError: a token that the model does not have.
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
            seed=_seed_after(asked.seed, resumed),
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


def _seed_after(seed: int | None, resumed: int) -> int | None:
    """Return the seed of a sequence that has tokens already.

    vLLM draws from a stream that begins anew with the sequence, so the rest of a resumed one must
    not repeat the draws of its beginning.
    """
    if seed is None:
        return None
    return (seed + resumed * _GOLDEN) & ((1 << _SEED_BITS) - 1)
