"""Bounds the prompts of a step by the time between tokens that is promised.

Prompts that are computed next to answers make each step longer, for all answers in the batch, and
who comes waits for the step under way. So a step takes no more of them than fit into the shortest
time between tokens that is promised to one of the batch, or into twice the time of a step without
prompts if that is more. One in which no answer and no other tenant's prompt waits for the end of
the step may take ``ALONE`` times as long: prompts cost less in long steps. What a prompt token
takes is learnt from the steps.
"""

from cluster.domain.work import StepTotals

KEPT = 0.9
"""Part of what is known that one more step leaves."""
ALONE = 4.0


class StepLimit:
    """Learns how long steps take, and says how many prompt tokens one has room for; one owner.

    Args:
        block_size: prompt tokens are given out in multiples of it, one at least.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._without = 0.0  # seconds of a step without prompts; 0 counts them as the prompts'
        self._prompt_s = 0.0  # seconds that prompts took, newer ones count more
        self._prompt_tokens = 0.0  # and their tokens

    def observe(self, totals: StepTotals) -> None:
        """Learn from steps that are alike, with prompts or without."""
        kept = KEPT**totals.steps
        if not totals.prefill_tokens:
            mean = totals.seconds / totals.steps
            self._without = kept * (self._without or mean) + (1.0 - kept) * mean
            return
        rest = self._without * totals.steps if totals.decode_rows else 0.0
        self._prompt_s = kept * self._prompt_s + max(0.0, totals.seconds - rest)
        self._prompt_tokens = kept * self._prompt_tokens + totals.prefill_tokens

    def prompt_tokens(self, promised_s: float, room: int, *, alone: bool = False) -> int:
        """Return the prompt tokens of a step, ``room`` at most.

        Args:
            promised_s: time between tokens, the shortest that is promised to one of the batch.
            alone: no answer and no other tenant's prompt is in the step.
        """
        if alone:
            promised_s *= ALONE
        if self._prompt_s <= 0.0:
            return room
        left = max(promised_s - self._without, self._without)
        fits = left * self._prompt_tokens / self._prompt_s
        if fits >= room:
            return room
        return min(room, max(1, int(fits / self._block_size)) * self._block_size)
