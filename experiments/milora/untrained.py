"""Choices of routers before any training, with rows normalised before pooling and without."""

from collections.abc import Sequence
from typing import Any

import torch

from cluster.base_model.source import ModelLocation
from experiments.milora.milora_tasks import MiloraTaskData
from router_service.milora.milora_network import MiloraRouter
from training.base_model import load_base
from training.config import MiloraTrainingConfig
from training.encoding import chat_prompt_ids
from training.milora.train_milora import initial_tensors

PROMPTS = 16
"""Of each task."""


def measure_untrained(base: ModelLocation, tasks: Sequence[MiloraTaskData]) -> dict[str, Any]:
    """Measure how sure an untrained router is, and on how many prompts it agrees.

    ``top_probability`` is of the likeliest module, ``same_set`` the share of prompts that get a
    layer's commonest three; means over layers. ``largest`` is the largest value of a layer's input.
    """
    model, tokenizer = load_base(base.path)
    prompts = [record.prompt for task in tasks for record in task.test[:PROMPTS]]
    found = {False: _Seen(), True: _Seen()}
    with torch.no_grad():
        states = [
            model(torch.tensor([chat_prompt_ids(tokenizer, p)]), output_hidden_states=True)
            for p in prompts
        ]
        inputs = [state.hidden_states[:-1] for state in states]  # the last is not a layer's input
        # Paths are not read: only what decides the routers' first weights.
        settings = MiloraTrainingConfig(data=base.path, out=base.path, cache_dir=base.path)
        tensors = initial_tensors(len(inputs[0]), inputs[0][0].shape[-1], settings)
        for normalise, seen in found.items():
            router = MiloraRouter(tensors, top_k=3, normalise=normalise)
            for layer in range(router.num_layers):
                seen.add([_probabilities(router, layer, hidden[layer]) for hidden in inputs])
    return {
        "prompts": len(prompts),
        "largest": max(float(rows.abs().max()) for hidden in inputs for rows in hidden),
        "raw": found[False].means(),
        "normalised": found[True].means(),
    }


def _probabilities(router: MiloraRouter, layer: int, hidden: torch.Tensor) -> torch.Tensor:
    """Compute [7] probabilities."""
    mask = torch.ones(hidden.shape[:2], dtype=torch.bool)
    return router.probabilities(layer, hidden, mask)[0]


class _Seen:
    """Sums over layers."""

    def __init__(self) -> None:
        self._top: list[float] = []
        self._same: list[float] = []

    def add(self, probabilities: Sequence[torch.Tensor]) -> None:
        self._top.append(sum(float(p.max()) for p in probabilities) / len(probabilities))
        sets = [frozenset(p.topk(3).indices.tolist()) for p in probabilities]
        self._same.append(max(map(sets.count, sets)) / len(sets))

    def means(self) -> dict[str, float]:
        count = len(self._top)
        return {"top_probability": sum(self._top) / count, "same_set": sum(self._same) / count}
