"""Learning rate and data order as pure functions of the step, so that a run can be resumed."""

import math
from random import Random


def learning_rate(step: int, *, peak: float, warmup: int, total: int) -> float:
    """The rate of step `step` (0-based): linear warm-up, then cosine decay towards zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def batch_indices(step: int, *, n_examples: int, batch_size: int, seed: int) -> list[int]:
    """The examples of step `step`: every epoch is its own shuffle, wrapped without a gap."""
    start = step * batch_size
    indices: list[int] = []
    while len(indices) < batch_size:
        epoch, offset = divmod(start + len(indices), n_examples)
        order = list(range(n_examples))
        Random(f"{seed}/{epoch}").shuffle(order)
        indices += order[offset : offset + batch_size - len(indices)]
    return indices
