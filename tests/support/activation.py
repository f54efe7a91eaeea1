"""Spans of prompts whose adapters are activated, as a replica makes them."""

from collections.abc import Mapping, Sequence

from cluster.adapters.activation import active_from, stretches
from cluster.domain.ids import Slot
from cluster.engine.spans import Span
from tests.support.engines import RunningEngine, make_request


def cut(
    prompt: Sequence[int],
    mixture: Sequence[tuple[Slot, float]],
    invocations: Mapping[Slot, Sequence[int]],
) -> list[Span]:
    """Cut a prompt into spans; adapters without an invocation are ordinary ones."""
    starts = [active_from(prompt, invocations.get(slot, ())) for slot, _ in mixture]
    found = []
    for start, places in stretches(starts):
        adapters = tuple(mixture[place] for place in places)
        found.append(Span(start, repr(adapters), adapters))
    return found


def submit(
    engine: RunningEngine,
    name: str,
    prompt: Sequence[int],
    mixture: Sequence[tuple[Slot, float]],
    invocations: Mapping[Slot, Sequence[int]],
    **fields: object,
) -> None:
    """Submit a prompt with its spans; ``fields`` are of the request."""
    first, *rest = cut(prompt, mixture, invocations)
    request = make_request(name, prompt, **fields)  # type: ignore[arg-type]
    engine.submit(request, first.adapters, first.namespace, spans=rest)
