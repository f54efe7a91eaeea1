"""Spans of a request, once its adapters are leased."""

from collections.abc import Sequence

from cluster.adapters.residency.manager import AdapterManager
from cluster.adapters.residency.residency_types import Lease
from cluster.domain.decision import RoutingDecision
from cluster.engine.mixing import Mixing
from cluster.engine.spans import Span
from deployments.replica.mixing import DecisionMixing
from deployments.replica.replica_request import ReplicaRequest


def request_spans(
    mixing: DecisionMixing, adapters: AdapterManager, request: ReplicaRequest
) -> tuple[tuple[Span, ...], Mixing | None]:
    """Return all spans of a leased request, prompt and completion, and the first one's mixing.

    Raises:
        RouterOutdated: see ``DecisionMixing.spans``.
        RequestError: likewise.
    """
    assert request.decision is not None
    assert request.lease is not None
    prompt, lease = request.prompt, request.lease
    spans, weighed = prompt_spans(mixing, adapters, request.decision, lease, prompt)
    later = [
        completion_span(mixing, adapters, span.decision, lease, prompt, len(prompt) + span.start)[0]
        for span in request.later
    ]
    return (*spans, *later), weighed


def prompt_spans(
    mixing: DecisionMixing,
    adapters: AdapterManager,
    decision: RoutingDecision,
    lease: Lease,
    prompt: Sequence[int],
) -> tuple[tuple[Span, ...], Mixing | None]:
    """Return the spans of a prompt under a decision, the first at 0, and their mixing.

    They follow from the prompt and the adapters' files alone: a repeat, a replay and another
    replica cut it at the same tokens.

    Raises:
        RouterOutdated: see ``DecisionMixing.spans``.
        RequestError: likewise.
    """
    slots = dict(zip(lease.digests, lease.slots, strict=True))
    digests = decision.digests
    return mixing.spans(
        decision,
        [slots[digest] for digest in digests],
        prompt,
        [adapters.invocation_tokens(digest) for digest in digests],
    )


def completion_span(
    mixing: DecisionMixing,
    adapters: AdapterManager,
    decision: RoutingDecision,
    lease: Lease,
    prompt: Sequence[int],
    start: int,
) -> tuple[Span, Mixing | None]:
    """Return the span of another decision, from the token at ``start`` on, and its mixing.

    Adapters that the prompt does not invoke stay out of it.

    Raises:
        RouterOutdated: see ``DecisionMixing.spans``.
        RequestError: likewise.
    """
    spans, weighed = prompt_spans(mixing, adapters, decision, lease, prompt)
    last = spans[-1]
    return Span(start, last.namespace, last.adapters), weighed
