"""The truth of paged attention: fp32, plain loops."""

from collections.abc import Sequence

import torch


def paged_attention_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: Sequence[Sequence[int]],
    context_lens: Sequence[int],
    query_lens: Sequence[int],
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Compute causal attention of each new token over its sequence's cached keys, its own included.

    ``softmax(scale * q . K) V`` over positions p with ``t - window < p <= t``; head h reads
    key/value head ``h // (H / H_kv)``.

    Args:
        q: [T, H, D], new tokens of all rows, row after row.
        k_cache, v_cache: [num_blocks, block_size, H_kv, D], new tokens already stored.
        block_tables: per row, the blocks of positions 0, block_size, 2 * block_size, ...
        context_lens: per row, tokens stored before this step.
        query_lens: per row, new tokens; they sum to T.
        scale: of the scores, usually ``D ** -0.5``.
        window: positions a token sees, itself included; None: all.

    Returns:
        [T, H, D], fp32.
    """
    heads, block_size = q.shape[1], k_cache.shape[1]
    group = heads // k_cache.shape[2]
    out = torch.zeros(q.shape, dtype=torch.float32)
    token = 0
    for table, context, count in zip(block_tables, context_lens, query_lens, strict=True):
        for position in range(context, context + count):
            first = 0 if window is None else max(0, position - window + 1)
            places = [(table[p // block_size], p % block_size) for p in range(first, position + 1)]
            for head in range(heads):
                keys = torch.stack([k_cache[b, o, head // group] for b, o in places]).float()
                values = torch.stack([v_cache[b, o, head // group] for b, o in places]).float()
                scores = scale * (keys @ q[token, head].float())
                out[token, head] = torch.softmax(scores, dim=0) @ values
            token += 1
    return out
