"""LoRA on the output head of a GPU's steps.

The head is as wide as the vocabulary, so its launches are left out of captured steps, which few
adapters would need them in. They follow a replay, over what it has kept of the head's input.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from kernels.lora.bank import AdapterBank
from kernels.lora.lora_batch import Mixture
from kernels.lora.lora_triton_batch import TritonLoraBatch
from kernels.lora.torch_ops import add_lora


def head_terms(bank: AdapterBank, site: int, mixture: Mixture) -> list[tuple[int, float]]:
    """Return the terms of a mixture whose adapters have LoRA on the head."""
    return [(slot, weight) for slot, weight in mixture if bank.touches(slot, site)]


class CapturedHead:
    """The head's own batch, for steps in which not every row has logits, and captured steps' input.

    Args:
        lora: the batch of captured steps; its rows bound this one's.
        site: index of the head in the bank.
    """

    def __init__(self, lora: TritonLoraBatch, site: int) -> None:
        bank, rows = lora.bank, lora.max_rows
        self._bank, self._site, self._lora = bank, site, lora
        self._own = TritonLoraBatch(bank, max_tokens=rows, max_rows=rows, max_pairs=lora.max_pairs)
        self.input = torch.zeros(
            (rows, bank.sites[site].in_features), dtype=bank.dtype, device=bank.device
        )

    def has_room(self, mixtures: Sequence[Mixture]) -> bool:
        """Return whether ``batch`` takes these rows."""
        own = self._own
        return len(mixtures) <= own.max_rows and max(map(len, mixtures)) <= own.max_pairs

    def batch(self, mixtures: Sequence[Mixture]) -> TritonLoraBatch | None:
        """Return the adapters of single rows, valid until the next call; None if none has it."""
        terms = [(1, head_terms(self._bank, self._site, mixture)) for mixture in mixtures]
        return self._own if self._own.update(terms) else None

    def release(self) -> None:
        """Release the adapters of the last ``batch``."""
        self._own.release()

    def is_touched(self, mixtures: Iterable[Mixture]) -> bool:
        """Return whether an adapter of these rows has LoRA on the head."""
        return any(head_terms(self._bank, self._site, mixture) for mixture in mixtures)

    def add(self, logits: torch.Tensor) -> None:
        """Add to the logits [rows, vocabulary] of a captured step that has just been replayed, in
        place; the captured batch must hold its rows."""
        add_lora(logits, self.input[: logits.shape[0]], self._bank, self._site, self._lora)
