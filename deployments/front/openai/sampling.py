"""From a body's fields to the engine's sampling parameters."""

from collections.abc import Mapping, Sequence

from cluster.config import FrontConfig
from cluster.domain.request import SamplingParams
from cluster.errors import PromptTooLong, RequestError
from deployments.front.openai.wire import ChatBody, CompletionBody

COMPLETION_MAX_TOKENS = 16
"""What ``/v1/completions`` generates when it is not told, as OpenAI's does."""


def check_prompt(
    prompt_tokens: int, max_model_len: int, vocab_size: int, ids: Sequence[int]
) -> None:
    """Refuse a prompt that cannot be computed.

    Raises:
        PromptTooLong: no room for the prompt and one token.
        RequestError: no tokens, or ids outside the vocabulary.
    """
    if prompt_tokens == 0:
        raise RequestError("prompt: must have at least one token", param="prompt")
    if prompt_tokens >= max_model_len:
        raise PromptTooLong(
            f"the prompt has {prompt_tokens} tokens; with at least one token of answer the "
            f"context window of {max_model_len} tokens holds {max_model_len - 1}",
            param="prompt",
        )
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise RequestError(f"prompt: token ids must be in [0, {vocab_size})", param="prompt")


def sampling_of(
    body: ChatBody | CompletionBody,
    prompt_tokens: int,
    max_model_len: int,
    vocab_size: int,
    limits: FrontConfig,
    grammar: str = "",
) -> SamplingParams:
    """The parameters of one sequence.

    ``max_tokens`` beyond the context window is cut to what fits; the answer then ends with
    ``finish_reason: length``.

    Raises:
        RequestError: a limit of the server is exceeded; ``param`` names the field.
    """
    if len(body.stop_strings) > limits.max_stop_strings:
        raise RequestError(
            f"stop: {len(body.stop_strings)} strings; at most {limits.max_stop_strings}",
            param="stop",
        )
    room = max_model_len - prompt_tokens
    prompt_logprobs = None
    if isinstance(body, ChatBody):
        wanted = body.max_tokens or body.max_completion_tokens or room
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
    else:
        wanted = COMPLETION_MAX_TOKENS if body.max_tokens is None else body.max_tokens
        logprobs = body.logprobs
        prompt_logprobs = body.logprobs if body.echo else None
    if logprobs is not None and logprobs > limits.max_logprobs:
        field = "top_logprobs" if isinstance(body, ChatBody) else "logprobs"
        raise RequestError(f"{field}: at most {limits.max_logprobs}, not {logprobs}", param=field)
    min_tokens = body.min_tokens or 0
    if min_tokens > wanted:
        raise RequestError(
            f"min_tokens: {min_tokens} is more than the {wanted} tokens that may be generated",
            param="min_tokens",
        )
    temperature, top_p = body.temperature, body.top_p
    if top_p == 0:  # the narrowest nucleus is the likeliest token
        temperature, top_p = 0.0, None
    return SamplingParams(
        max_tokens=min(wanted, room),
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        top_k=max(0, body.top_k or 0),
        seed=body.seed,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logprobs=logprobs,
        ignore_eos=bool(body.ignore_eos),
        min_p=body.min_p or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        logit_bias=_logit_bias(body.logit_bias or {}, vocab_size),
        grammar=grammar,
        min_tokens=min_tokens,
        prompt_logprobs=prompt_logprobs,
        explain=bool(body.explain),
    )


def _logit_bias(wanted: Mapping[str, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    """(token id, bias), in order of the ids. Raises RequestError for ids there are none of."""
    biases = sorted((int(token), bias) for token, bias in wanted.items())
    if biases and biases[-1][0] >= vocab_size:
        raise RequestError(
            f"logit_bias: token ids must be in [0, {vocab_size}), not {biases[-1][0]}",
            param="logit_bias",
        )
    return tuple(biases)
