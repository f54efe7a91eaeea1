"""Chooses the rank that vLLM makes every slot for, before any adapter comes."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.config import AdapterConfig
from cluster.errors import ConfigError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM makes slots of."""


def slot_rank(config: AdapterConfig, shapes: Mapping[str, tuple[int, int]], item_bytes: int) -> int:
    """Return the rank of all slots.

    It is the next one above ``max_rank`` where the configuration names one. Else it is the largest
    one, up to the default of ``max_rank``, whose slots fit ``memory_bytes``.

    Args:
        config: slots, largest rank and memory of adapters.
        shapes: module path -> (d_out, d_in) of all that can be adapted.
        item_bytes: of one value.

    Raises:
        ConfigError: not even the smallest fits, or not the one that is named.
    """
    row = sum(d_out + d_in for d_out, d_in in shapes.values()) * item_bytes * config.slots
    most = config.memory_bytes // max(1, row)
    if "max_rank" in config.model_fields_set:
        fitting = [rank for rank in RANKS if rank >= config.max_rank]
        if not fitting:
            raise ConfigError(
                f"adapters.max_rank is {config.max_rank}; vLLM's slots have at most {RANKS[-1]}"
            )
        rank = fitting[0]
    else:
        rank = max([rank for rank in RANKS if rank <= min(most, config.max_rank)], default=RANKS[0])
    if rank > most:
        raise ConfigError(
            f"adapters.memory_bytes is {config.memory_bytes}: vLLM makes all {config.slots} slots "
            f"for one rank, and for rank {rank} they take {rank * row} bytes; set fewer "
            "adapters.slots, a smaller adapters.max_rank, or more memory"
        )
    return rank
