"""Counts what a request has used when it ends, however it ends."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.domain.adapter import WeightedAdapter
from cluster.domain.request import Usage
from deployments.front.sequences.choice import Choice

Part = tuple[Usage, tuple[WeightedAdapter, ...]]


@dataclass(frozen=True, slots=True)
class Spent:
    """Counts computed tokens; a prompt with several answers is counted once."""

    prompt_tokens: int
    completion_tokens: int
    parts: tuple[Part, ...]  # the same tokens by the mixture that they were computed with

    @property
    def tokens(self) -> int:
        """Return all of them."""
        return self.prompt_tokens + self.completion_tokens


def spent_on(choices: Sequence[Choice], prompts: int) -> Spent:
    """Count what the choices of one request have used.

    Args:
        choices: in order of prompt, then of choice.
        prompts: number of prompts. One whose choices have all computed nothing costs nothing.
    """
    per_prompt = max(1, len(choices) // prompts)
    groups = [choices[first : first + per_prompt] for first in range(0, len(choices), per_prompt)]
    prompt_tokens = sum(
        len(group[0].spec.prompt_token_ids)
        for group in groups
        if any(choice.has_run for choice in group)
    )
    first = choices[0].spec.decided.decision.mixture
    parts: list[Part] = [(Usage(prompt_tokens, 0), first)]
    for choice in choices:
        shares = [(choice.generated, first)]
        if choice.rerouting is not None:
            shares = choice.rerouting.mixture_shares(choice.generated)
        parts += [(Usage(0, count), mixture) for count, mixture in shares]
    completion = sum(choice.generated for choice in choices)
    return Spent(prompt_tokens, completion, tuple(parts))
