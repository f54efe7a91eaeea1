"""Traces by formula: streams of requests, each of four parts, merged by time.

A stream is when (a rate and a cv) x who asks for what x how long x which beginnings. Each part
draws from a generator of its own, so that changing one part leaves what the others draw as it is.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from random import Random

from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.arrivals import ArrivalRate, arrival_times
from cluster.simulation.traces.asking import AskRule
from cluster.simulation.traces.lengths import Lengths
from cluster.simulation.traces.prompt_prefixes import NO_PREFIXES, PromptPrefixes


@dataclass(frozen=True)
class TraceStream:
    """One source of requests."""

    rate: ArrivalRate
    asking: AskRule
    prompts: Lengths
    answers: Lengths
    prefixes: PromptPrefixes = NO_PREFIXES
    cv: float = 1.0  # of the gaps between arrivals
    max_tokens: int | None = None  # limit of an answer; None: as long as it will be
    deadline_s: float | None = None

    def requests(self, seed: str, duration_s: float) -> Iterator[TraceRequest]:
        """Yield the requests by time; equal arguments give equal requests."""
        asks, sizes, starts = (Random(f"{seed}/{part}") for part in ("ask", "size", "prefix"))
        when = Random(f"{seed}/when")
        for at in arrival_times(self.rate, when, duration_s, self.cv):
            tenant, adapters = self.asking.ask(asks, at)
            prompt, answer = self.prompts.draw(sizes), self.answers.draw(sizes)
            limit = answer if self.max_tokens is None else self.max_tokens
            yield TraceRequest(
                at=at,
                tenant=tenant,
                adapters=adapters,
                prompt_tokens=prompt,
                generated_tokens=min(answer, limit),
                max_tokens=limit,
                prefix=self.prefixes.draw(starts, tenant, prompt),
                deadline_s=self.deadline_s,
            )


def generate(
    streams: Sequence[TraceStream], seed: int, duration_s: float
) -> Iterator[TraceRequest]:
    """Yield the requests of all streams by time; equal arguments give equal requests.

    Args:
        streams: their order matters to what is drawn.
        seed: of everything that is drawn.
        duration_s: seconds; the trace ends there.
    """
    parts = [
        stream.requests(f"{seed}/{number}", duration_s) for number, stream in enumerate(streams)
    ]
    return heapq.merge(*parts, key=attrgetter("at"))
