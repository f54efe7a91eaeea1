"""Builds the sequences of a decided request."""

import dataclasses
from collections.abc import Sequence

from cluster.domain.request import SamplingParams
from cluster.tenancy.tenants import Tenant
from deployments.front.replicas.pick_hints import PickHints
from deployments.front.requests.decider import Decider
from deployments.front.requests.expected_answers import ExpectedAnswers
from deployments.front.requests.prompt_request import PromptRequest
from deployments.front.sequences.choice import Choice
from deployments.front.sequences.sequence_spec import ChoiceServices, SequenceSpec
from deployments.front.telemetry.request_log import current_record
from deployments.front.text.prompt_types import Prompts
from router_service.request_decision import RequestDecision
from router_service.routing_request import RoutingRequest


class ChoiceBuilder:
    """Builds choices for the requests of one front.

    Args:
        services: shared by all choices.
        decider: decides later sentences.
        expected: knows how much an answer will probably generate.
        timeout_s: seconds that a request may take.
    """

    def __init__(
        self,
        services: ChoiceServices,
        decider: Decider,
        expected: ExpectedAnswers,
        timeout_s: float,
    ) -> None:
        self._services = services
        self._decider = decider
        self._expected = expected
        self._timeout_s = timeout_s

    def build(
        self,
        tenant: Tenant,
        request: PromptRequest,
        routing: RoutingRequest,
        prompts: Prompts,
        sampling: Sequence[SamplingParams],
        decided: RequestDecision,
    ) -> tuple[Choice, ...]:
        """Build the sequences, in order of prompt, then of choice; none is submitted yet."""
        now = self._services.clock.monotonic()
        choices: list[Choice] = []
        names, explain = request.asked_names, request.explain
        for ids, shared in zip(prompts.ids, sampling, strict=True):
            expected = self._expected.one(tenant.id, names, shared)
            hints = PickHints.of(decided.decision, tenant.id, ids, expected, explain=explain)
            for number in range(request.n):
                own = shared
                if shared.seed is not None and number:
                    own = dataclasses.replace(shared, seed=shared.seed + number)
                spec = SequenceSpec(
                    tenant=tenant.id,
                    prompt_token_ids=ids,
                    sampling=own,
                    stop=request.stop,
                    decided=decided,
                    arrived_at=now,
                    deadline_at=now + self._timeout_s,
                    skip_special_tokens=request.skip_special_tokens,
                    include_stop=request.include_stop,
                    max_wait_s=request.max_wait_s,
                    hints=hints,
                )
                choices.append(
                    Choice(
                        spec,
                        self._services,
                        index=len(choices),
                        http_request=current_record().id,
                        rerouting=self._decider.rerouting_of(tenant.id, routing, prompts, decided),
                    )
                )
        return tuple(choices)
