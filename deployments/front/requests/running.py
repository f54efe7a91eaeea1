"""Holds a request while its choices are generated."""

from dataclasses import dataclass

from cluster.domain.request import Outcome
from cluster.tenancy.limits import QuotaVerdict
from cluster.tenancy.tenants import Tenant
from deployments.front.requests.prompt_request import PromptRequest
from deployments.front.sequences.choice import Choice
from deployments.front.sequences.relay import Relay
from deployments.front.sequences.sequence_answer import Echo, SequenceAnswer
from deployments.front.sequences.token_times import TokenTimes
from router_service.request_decision import RequestDecision


@dataclass(slots=True)
class Running:
    """Holds an admitted and decided request. ``RequestService.finish`` ends it, exactly once."""

    tenant: Tenant
    request: PromptRequest
    decided: RequestDecision
    prompts: int  # each has ``request.n`` choices
    choices: tuple[Choice, ...]  # in order of prompt, then of choice
    relay: Relay
    times: TokenTimes
    verdict: QuotaVerdict
    echoes: tuple[Echo, ...] = ()  # one per choice, or none
    outcome: Outcome | None = None

    @property
    def answers(self) -> list[SequenceAnswer]:
        """Return the answers of all choices, as far as they have come."""
        return [choice.answer for choice in self.choices]

    @property
    def replica(self) -> str:
        """Return the first choice's replica; empty before its first delta."""
        return self.choices[0].replica or ""
