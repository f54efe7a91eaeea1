"""Fits the sampling parameters that were asked for to a prompt and to the server's limits."""

from dataclasses import replace

from cluster.config import FrontConfig
from cluster.domain.request import SamplingParams
from cluster.errors import RequestError
from deployments.front.requests.prompt_request import ANY_LENGTH, PromptRequest


def sampling_for(
    request: PromptRequest,
    prompt_tokens: int,
    max_model_len: int,
    vocab_size: int,
    limits: FrontConfig,
    grammar: str = "",
) -> SamplingParams:
    """Return the parameters of one sequence.

    ``max_tokens`` beyond the context window is cut to what fits; the answer then ends with
    ``finish_reason: length``.

    Raises:
        RequestError: a limit of the server is exceeded; ``param`` names the field.
    """
    asked = request.sampling
    if len(request.stop) > limits.max_stop_strings:
        raise RequestError(
            f"stop: {len(request.stop)} strings; at most {limits.max_stop_strings}",
            param="stop",
        )
    room = max_model_len - prompt_tokens
    max_tokens = room if asked.max_tokens >= ANY_LENGTH else asked.max_tokens
    if asked.logprobs is not None and asked.logprobs > limits.max_logprobs:
        field = request.logprobs_field
        raise RequestError(
            f"{field}: at most {limits.max_logprobs}, not {asked.logprobs}", param=field
        )
    if asked.min_tokens > max_tokens:
        raise RequestError(
            f"min_tokens: {asked.min_tokens} is more than the {max_tokens} tokens that may be "
            "generated",
            param="min_tokens",
        )
    if asked.logit_bias and asked.logit_bias[-1][0] >= vocab_size:
        raise RequestError(
            f"logit_bias: token ids must be in [0, {vocab_size}), not {asked.logit_bias[-1][0]}",
            param="logit_bias",
        )
    return replace(asked, max_tokens=min(max_tokens, room), grammar=grammar)
