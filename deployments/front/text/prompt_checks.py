"""Refuses prompts and requests that cannot be computed or take too much memory."""

from collections.abc import Sequence

from cluster.domain.request import SamplingParams
from cluster.errors import PromptTooLong, RequestError
from deployments.front.http.limits import MAX_REPORTED, MAX_REQUEST_TOKENS, MAX_SEQUENCES
from deployments.front.text.prompt_types import Conversation, PlainPrompts


def check_prompt(ids: Sequence[int], max_model_len: int, vocab_size: int) -> None:
    """Refuse a prompt that cannot be computed.

    Raises:
        PromptTooLong: no room for the prompt and one token.
        RequestError: no tokens, or ids outside the vocabulary.
    """
    if not ids:
        raise RequestError("prompt: must have at least one token", param="prompt")
    if len(ids) >= max_model_len:
        raise PromptTooLong(
            f"the prompt has {len(ids)} tokens; with at least one token of answer the "
            f"context window of {max_model_len} tokens holds {max_model_len - 1}",
            param="prompt",
        )
    if not 0 <= min(ids) <= max(ids) < vocab_size:
        raise RequestError(f"prompt: token ids must be in [0, {vocab_size})", param="prompt")


def too_long(context: int, param: str) -> PromptTooLong:
    """Return the error of a prompt that was not tokenised to its end."""
    return PromptTooLong(
        f"the prompt has more tokens than the context window of {context} holds; shorten it",
        param=param,
    )


def check_routed_prompts(prompt: Conversation | PlainPrompts) -> None:
    """Refuse several prompts for one router.

    Raises:
        RequestError: there are several.
    """
    if isinstance(prompt, PlainPrompts) and len(prompt.items) > 1:
        raise RequestError(
            "prompt: a router decides for one prompt; send several prompts one by one",
            param="prompt",
        )


def check_sequences(prompts: int, n: int) -> None:
    """Refuse a request of too many sequences.

    Raises:
        RequestError: with both factors.
    """
    if prompts * n > MAX_SEQUENCES:
        raise RequestError(
            f"n: {prompts} prompts times {n} choices are {prompts * n} sequences; a request may "
            f"have {MAX_SEQUENCES}",
            param="n" if n > 1 else "prompt",
        )


def check_memory(ids: Sequence[Sequence[int]], sampling: Sequence[SamplingParams], n: int) -> None:
    """Refuse sequences that together take more memory than a front has for one request.

    Raises:
        RequestError: names what to lower.
    """
    if len(ids) * n <= 1:
        return
    tokens = sum(map(len, ids)) * n
    if tokens > MAX_REQUEST_TOKENS:
        raise RequestError(
            f"n: the sequences have {tokens} prompt tokens; several in one request may have "
            f"{MAX_REQUEST_TOKENS} together",
            param="n" if n > 1 else "prompt",
        )
    reported = sum(_reported(len(prompt), one) for prompt, one in zip(ids, sampling, strict=True))
    if reported * n > MAX_REPORTED:
        raise RequestError(
            f"logprobs: up to {reported * n} log-probabilities would be reported; several "
            f"sequences in one request may report {MAX_REPORTED} together: lower max_tokens, n or "
            "the number of alternatives",
            param="logprobs",
        )


def _reported(prompt: int, sampling: SamplingParams) -> int:
    answer = 0 if sampling.logprobs is None else sampling.max_tokens * (sampling.logprobs + 1)
    scored = 0 if sampling.prompt_logprobs is None else prompt * (sampling.prompt_logprobs + 1)
    return answer + scored
