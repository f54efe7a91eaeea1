"""What one step computes, as the scheduler decided it."""

from dataclasses import dataclass

from cluster.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """One sequence's share of a step: compute its tokens [start, start + count)."""

    sequence: Sequence
    start: int  # equals the number of tokens computed before the step
    count: int  # at least 1
    samples: bool  # the logits of its last token are sampled

    @property
    def end(self) -> int:
        """One past the last token computed."""
        return self.start + self.count


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one step computes. Decodes come first, then prefills, each in order of admission."""

    step: int  # counts plans, for people
    scheduled: tuple[ScheduledSequence, ...]  # never empty

    @property
    def num_tokens(self) -> int:
        """Tokens computed in the step."""
        return sum(item.count for item in self.scheduled)
