"""A request's segments, once its adapters are leased."""

from collections.abc import Sequence

from cluster.adapters.residency.manager import AdapterManager
from cluster.adapters.residency.pool_types import Lease
from cluster.domain.decision import RoutingDecision
from cluster.engine.mixing_spec import Fusion
from cluster.engine.spans import Segment
from deployments.replica.mixing import DecisionFusion


def prompt_segments(
    fusion: DecisionFusion,
    adapters: AdapterManager,
    decision: RoutingDecision,
    lease: Lease,
    prompt: Sequence[int],
) -> tuple[tuple[Segment, ...], Fusion | None]:
    """The segments of a prompt under a decision, the first at 0, and their fusion.

    They follow from the prompt and the adapters' files alone: a repeat, a replay and another
    replica cut it at the same tokens.

    Raises:
        RouterOutdated: see ``DecisionFusion.segments``.
        RequestError: likewise.
    """
    slots = dict(zip(lease.digests, lease.slots, strict=True))
    digests = decision.digests
    return fusion.segments(
        decision,
        [slots[digest] for digest in digests],
        prompt,
        [adapters.invocation_tokens(digest) for digest in digests],
    )


def completion_segment(
    fusion: DecisionFusion,
    adapters: AdapterManager,
    decision: RoutingDecision,
    lease: Lease,
    prompt: Sequence[int],
    start: int,
) -> tuple[Segment, Fusion | None]:
    """What a request goes on with by another decision, from the token at ``start`` on. Adapters
    that the prompt does not invoke stay out of it.

    Raises:
        RouterOutdated: see ``DecisionFusion.segments``.
        RequestError: likewise.
    """
    segments, weighed = prompt_segments(fusion, adapters, decision, lease, prompt)
    last = segments[-1]
    return Segment(start, last.namespace, last.adapters), weighed
