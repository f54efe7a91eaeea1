"""The training loss: cross entropy on the answers' tokens and nowhere else."""

from typing import Any

import torch
from torch.nn import functional

from training.encoding import IGNORED, EncodedBatch


def completion_loss(model: Any, batch: EncodedBatch) -> torch.Tensor:
    """Compute the mean negative log likelihood (nats) per answer token; a scalar with gradient.

    Logits are computed only for the columns that can hold answers: the vocabulary projection of a
    small model costs as much as several of its layers.
    """
    n_rows, n_labels = batch.labels.shape
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        past_key_values=_prefix_cache(model, batch.prefix_ids, n_rows),
        logits_to_keep=n_labels + 1,
    )
    logits = output.logits[:, :-1].float()
    total = functional.cross_entropy(
        logits.reshape(n_rows * n_labels, -1),
        batch.labels.reshape(-1),
        ignore_index=IGNORED,
        reduction="sum",
    )
    return total / batch.n_targets


def _prefix_cache(model: Any, prefix_ids: torch.Tensor, n_rows: int) -> Any:
    """Compute keys and values of the shared prefix, repeated for every row; gradients flow
    through."""
    if prefix_ids.shape[1] == 0:
        return None
    cache = model(input_ids=prefix_ids, use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_repeat_interleave(n_rows)
    return cache
