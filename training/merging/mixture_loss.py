"""Loss of a base model under adapters that are merged again for every evaluation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from cluster.adapters.loader import LoraTensors
from training.encoding import EncodedExample, collate
from training.loss import completion_loss


class _SettableLinear(nn.Module):
    """A linear, plus ``scale B A x`` while an adapter is set."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear
        self.adapter: LoraTensors | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(x)
        if self.adapter is None:
            return y
        a, b, scaling = self.adapter
        return y + nn.functional.linear(nn.functional.linear(x, a), b) * scaling


class AdaptedModel:
    """A transformers causal LM whose one adapter can be exchanged."""

    def __init__(self, model: Any, modules: Iterable[str]) -> None:
        """``modules``: paths of the linears that an adapter may touch; they are replaced."""
        self._model = model.requires_grad_(False)
        self._slots: dict[str, _SettableLinear] = {}
        for path in modules:
            parent, _, name = path.rpartition(".")
            slot = _SettableLinear(model.get_submodule(path))
            setattr(model.get_submodule(parent), name, slot)
            self._slots[path] = slot

    def set_adapter(self, tensors: Mapping[str, LoraTensors]) -> None:
        """Apply these tensors, and nothing to the other modules; {} is the base alone."""
        for path, slot in self._slots.items():
            slot.adapter = tensors.get(path)

    @torch.inference_mode()
    def loss(self, examples: Sequence[EncodedExample], *, pad_id: int, batch_size: int) -> float:
        """Compute the mean negative log-likelihood (nats) per answer token over all examples."""
        total, targets = 0.0, 0
        for start in range(0, len(examples), batch_size):
            batch = collate(examples[start : start + batch_size], pad_id=pad_id)
            total += float(completion_loss(self._model, batch)) * batch.n_targets
            targets += batch.n_targets
        return total / targets
