"""Notes when the tokens of a request came, for metrics and the log."""

from collections.abc import Iterable

from cluster.clock import Clock
from deployments.front.sequences.choice import Choice
from deployments.front.sequences.sequence_answer import Delta
from deployments.front.telemetry.metrics import FrontMetrics


class TokenTimes:
    """Measures from a request's start to its first token, and between tokens of a choice."""

    def __init__(self, metrics: FrontMetrics, clock: Clock) -> None:
        self.started = clock.monotonic()  # seconds
        self.first_token_at: float | None = None  # monotonic, seconds
        self.firsts: dict[int, float] = {}  # first token of each choice; monotonic, seconds
        self.latest: dict[int, float] = {}  # newest token of each choice
        self._metrics = metrics
        self._clock = clock

    def note(self, deltas: Iterable[tuple[Choice, Delta]]) -> None:
        """Note deltas that came just now."""
        now = self._clock.monotonic()
        for choice, delta in deltas:
            if not delta.token_ids:
                continue
            if self.first_token_at is None:
                self.first_token_at = now
                self._metrics.ttft_seconds.observe(now - self.started)
            before = self.latest.get(choice.index)
            if before is not None:
                self._metrics.inter_token_seconds.observe(now - before)
            else:
                self.firsts[choice.index] = now
            self.latest[choice.index] = now
