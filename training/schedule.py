"""Learning rate and data order as pure functions of the step, so that a run can be resumed."""

import math
from random import Random
from typing import Literal


def learning_rate(
    step: int,
    *,
    peak: float,
    warmup: int,
    total: int,
    decay: Literal["cosine", "linear"] = "cosine",
) -> float:
    """Compute the rate of step `step` (0-based): linear warm-up, then decay towards zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return peak * (1 - done if decay == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


def batch_indices(step: int, *, n_examples: int, batch_size: int, seed: int | str) -> list[int]:
    """List the examples of step `step`: every epoch is its own shuffle, wrapped without a gap."""
    start = step * batch_size
    indices: list[int] = []
    while len(indices) < batch_size:
        epoch, offset = divmod(start + len(indices), n_examples)
        order = list(range(n_examples))
        Random(f"{seed}/{epoch}").shuffle(order)
        indices += order[offset : offset + batch_size - len(indices)]
    return indices
