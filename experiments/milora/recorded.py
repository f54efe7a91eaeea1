"""Prompt routers that remember what they chose."""

from collections import Counter
from typing import Any, Self

import torch

from cluster.engine.mixing import LAYER_MODULES
from cluster.engine.mixing_parts import PrefillRouter


class RecordedRouter:
    """Counts calls, and which modules they chose; a `execution.mixing.PrefillRouter`."""

    def __init__(self, router: PrefillRouter) -> None:
        self._router = router
        self.calls = 0
        self.num_layers = router.num_layers
        self.hidden_size = router.hidden_size
        self._masks: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(self.num_layers)]

    def masks(self, layer: int, prompt_hidden: torch.Tensor) -> torch.Tensor:
        """Return the router's own answer."""
        answer = self._router.masks(layer, prompt_hidden)
        self.calls += 1
        self._masks[layer][tuple(answer.nonzero().squeeze(1).tolist())] += 1
        return answer

    def to(self, device: torch.device) -> Self:
        """Return itself, with the router on ``device``."""
        self._router = self._router.to(device)
        return self

    def summary(self) -> dict[str, Any]:
        """Summarise how often each module was chosen, and how much the choice depends on the
        prompt."""
        chosen: Counter[int] = Counter()
        for masks in self._masks:
            for mask, count in masks.items():
                chosen.update(dict.fromkeys(mask, count))
        total = sum(chosen.values())
        common = [max(masks.values()) / sum(masks.values()) for masks in self._masks]
        return {
            "router_calls": self.calls,
            "share": {name: chosen[at] / total for at, name in enumerate(LAYER_MODULES)},
            "masks_per_layer": sum(len(masks) for masks in self._masks) / len(self._masks),
            "commonest_mask": sum(common) / len(common),
        }
