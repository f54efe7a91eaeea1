"""Tells the replaced modules of one model about the step that is running."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from kernels.attention.cache import LayerKVCache
    from kernels.attention.paged import AnyPagedBatch
    from kernels.lora.bank import AdapterBank
    from kernels.lora.torch_ops import AnyLoraBatch


class LayerMixing(Protocol):
    """Sets the weights of a step's adapters from layer to layer."""

    @property
    def changes(self) -> bool:
        """``enter`` has something to set."""
        ...

    def view(self, site: int) -> torch.Tensor | None:
        """Return the memory that holds a site's weights from ``enter`` of its layer on.

        Returns:
            [P] or [P, slices], at the same address in every step; None if they depend on the
            site's own input.
        """
        ...

    def enter(self, layer: int, x: torch.Tensor) -> None:
        """Set the weights of a layer's sites, from the rows ``x`` [T, d] that enter it."""
        ...

    def weights(self, site: int, x: torch.Tensor) -> torch.Tensor:
        """Return a site's weights, [P] or [P, slices], given its input ``x`` [T, in]."""
        ...


@dataclass(slots=True)
class StepContext:
    """Owned by the runner, shared by the modules of one model instance.

    ``attention``, ``lora``, ``head`` and ``mixing`` are set again for each step. ``attention`` is
    None outside of one; ``lora`` is None if no row of the step has an adapter, and then no LoRA
    work is done; ``head`` is None if no row whose logits are wanted has LoRA on the output head;
    ``mixing`` is None if every adapter has one weight for all layers.
    """

    max_model_len: int  # tokens
    bank: AdapterBank | None = None  # set once, by the runner
    kv_caches: tuple[LayerKVCache, ...] = ()  # one per layer, set once, by the runner
    attention: AnyPagedBatch | None = None
    lora: AnyLoraBatch | None = None
    head: AnyLoraBatch | None = None  # of the rows that the output head is given
    head_input: torch.Tensor | None = None  # [rows, hidden], where what the head reads is kept
    mixing: LayerMixing | None = None

    def effective_window(self, window: int | None) -> int | None:
        """Return ``window``, or None if no sequence can be longer than it."""
        return None if window is None or window >= self.max_model_len else window
