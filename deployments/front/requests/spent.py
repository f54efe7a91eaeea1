"""What a request has used when it ends, however it ends."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.domain.adapter import WeightedAdapter
from cluster.domain.request import Usage
from deployments.front.requests.generation import Generation

Part = tuple[Usage, tuple[WeightedAdapter, ...]]


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens that were computed; a prompt with several answers is counted once."""

    prompt_tokens: int
    completion_tokens: int
    parts: tuple[Part, ...]  # the same tokens by the mixture that they were computed with

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.prompt_tokens + self.completion_tokens


def spent_on(generations: Sequence[Generation], prompts: int) -> Spent:
    """What the sequences of one request have used.

    Args:
        generations: in order of prompt, then of answer.
        prompts: number of prompts. One whose sequences have all computed nothing costs nothing.
    """
    per_prompt = max(1, len(generations) // prompts)
    groups = [
        generations[first : first + per_prompt] for first in range(0, len(generations), per_prompt)
    ]
    prompt_tokens = sum(
        len(group[0].spec.prompt_token_ids)
        for group in groups
        if any(generation.ran for generation in group)
    )
    first = generations[0].spec.decided.decision.mixture
    parts: list[Part] = [(Usage(prompt_tokens, 0), first)]
    for generation in generations:
        shares = [(generation.generated, first)]
        if generation.rerouting is not None:
            shares = generation.rerouting.shares(generation.generated)
        parts += [(Usage(0, count), mixture) for count, mixture in shares]
    completion = sum(generation.generated for generation in generations)
    return Spent(prompt_tokens, completion, tuple(parts))
