"""Defines what the core takes from any API: a request without the API's own fields."""

import math
from dataclasses import dataclass
from enum import StrEnum

from cluster.domain.request import SamplingParams
from deployments.front.text.grammars import GrammarRequest
from deployments.front.text.prompt_types import Conversation, PlainPrompts
from router_service.routing_request import MixtureTerm

ANY_LENGTH = 2**31
"""Value of ``sampling.max_tokens`` for as many tokens as fit; no caller can ask for so many."""


DEFAULT_SAMPLING = SamplingParams(max_tokens=ANY_LENGTH)


class Endpoint(StrEnum):
    """Names an endpoint in metrics and in the log."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    ROUTE = "route"


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """Asks for answers to one or several prompts, or for their decision alone."""

    endpoint: Endpoint
    model: str
    prompt: Conversation | PlainPrompts
    adapters: tuple[MixtureTerm, ...] | None = None
    sampling: SamplingParams = DEFAULT_SAMPLING
    """As asked for; ``sampling_for`` fits it to a prompt."""
    grammar: GrammarRequest | None = None
    n: int = 1  # choices for each prompt
    stop: tuple[str, ...] = ()
    skip_special_tokens: bool = True  # leave them out of the text
    include_stop: bool = False  # end the text behind what stopped it
    echo: bool = False  # begin each choice with its prompt
    explain: bool = False  # tell with each choice how its mixture came about
    max_wait_s: float = math.inf  # for the first replica, where none runs
    logprobs_field: str = "logprobs"  # name of this field in the caller's API, for errors

    @property
    def asked_names(self) -> tuple[str, ...]:
        """Return the names asked for; requests with the same have answers of similar length."""
        return (self.model, *(term.alias for term in self.adapters or ()))
