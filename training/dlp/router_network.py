"""The mini-MLP in torch, for training; `routers.mini_mlp` is the same function in numpy."""

import math

import torch
from torch.nn import functional

from router_service.dlp.dlp_schema import DlpHyperparameters
from router_service.dlp.mini_mlp import tensor_shapes

Parameters = dict[str, torch.Tensor]

_EMBEDDING_STD = 0.02  # small: a feature never trained on hardly moves the pooled vector


def initial_parameters(
    hyperparameters: DlpHyperparameters, n_classes: int, generator: torch.Generator
) -> Parameters:
    """Draw fresh parameters under the artifact's names, linears as [in, out]."""
    shapes = tensor_shapes(hyperparameters.network, hyperparameters.features.buckets, n_classes)
    parameters = {}
    for name, shape in shapes.items():
        if name.endswith("bias"):
            tensor = torch.zeros(shape)
        else:
            std = math.sqrt(2 / shape[0]) if name.startswith("linear") else _EMBEDDING_STD
            tensor = torch.randn(shape, generator=generator) * std
        parameters[name] = tensor.requires_grad_()
    return parameters


def logits(parameters: Parameters, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Compute u [B, N] of padded feature ids [B, T]; every row of mask [B, T] has a true entry."""
    query = parameters["query"]
    e = functional.embedding(ids, parameters["embedding"])  # [B, T, d]
    scores = (e @ query) / math.sqrt(query.shape[0])  # [B, T]
    a = scores.masked_fill(~mask, float("-inf")).softmax(dim=1)
    present = mask.to(e.dtype)
    mean = (present.unsqueeze(1) @ e).squeeze(1) / present.sum(dim=1, keepdim=True)
    h = torch.cat(((a.unsqueeze(1) @ e).squeeze(1), mean), dim=1)  # [B, 2d]
    for layer in range(4):
        h = h @ parameters[f"linear.{layer}.weight"] + parameters[f"linear.{layer}.bias"]
        if layer < 3:
            h = h.relu()
    return h
