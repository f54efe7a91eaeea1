"""MiLoRA's routers of all layers, in fp32."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from router_service.milora.milora_schema import NUM_MODULES, Pooling, Weighting
from router_service.milora.module_masks import choose, pool
from router_service.milora.rational import DENOMINATOR_DEGREE, NUMERATOR_DEGREE, rational

_EPSILON = 1e-6  # of the mean square


def tensor_shapes(layers: int, hidden_size: int, pooling: Pooling) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor."""
    shapes = {
        "projection": (layers, hidden_size, NUM_MODULES),
        "numerator": (layers, NUMERATOR_DEGREE + 1),
        "denominator": (layers, DENOMINATOR_DEGREE),
    }
    if pooling == "self_attention":
        shapes["query"] = (layers, hidden_size)
    return shapes


class MiloraRouter:
    """p = softmax(Ra(pool(H)) W_r), then the top k; a `execution.mixing.PrefillRouter`."""

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        *,
        top_k: int,
        pooling: Pooling = "self_attention",
        weighting: Weighting = "mask",
        normalise: bool = False,
    ) -> None:
        """Take over tensors as in ``tensor_shapes``; they may require gradients.

        With ``normalise`` every row is divided by its root mean square before it is pooled. In the
        residual stream of a model with norms the first token's row can have values of tens of
        thousands: they rule the pooled vector, a rational function of degrees 6 and 4 squares them,
        and the softmax is 1 for one module, without gradient.

        Raises:
            ValueError: names or shapes that do not fit, or no such k.
        """
        self.num_layers, self.hidden_size, _ = tensors["projection"].shape
        shapes = tensor_shapes(self.num_layers, self.hidden_size, pooling)
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != shapes:
            raise ValueError(f"router tensors {found} do not fit {shapes}")
        if not 1 <= top_k <= NUM_MODULES:
            raise ValueError(f"top_k is {top_k}, not 1 to {NUM_MODULES}")
        self._tensors = dict(tensors)
        self._top_k = top_k
        self._pooling: Pooling = pooling
        self._weighting: Weighting = weighting
        self._normalise = normalise

    def probabilities(self, layer: int, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Compute p [B, 7]: the softmax of ``logits``."""
        return self.logits(layer, hidden, mask).softmax(dim=-1)

    def logits(self, layer: int, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Compute u [B, 7] of a layer's modules in the order of `execution.mixing.LAYER_MODULES`.

        Args:
            layer: index of the decoder layer.
            hidden: rows that enter it, [B, T, d].
            mask: [B, T] bool, true at the prompt's tokens.
        """
        tensors = self._tensors
        query = tensors["query"][layer] if self._pooling == "self_attention" else None
        rows = hidden.float()
        if self._normalise:
            rows = rows * (rows.square().mean(dim=-1, keepdim=True) + _EPSILON).rsqrt()
        pooled = pool(rows, mask, self._pooling, query)
        activated = rational(pooled, tensors["numerator"][layer], tensors["denominator"][layer])
        return activated @ tensors["projection"][layer]

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """Choose weights [B, 7] from logits [B, 7]."""
        return choose(logits, self._top_k, self._weighting)

    def masks(self, layer: int, prompt_hidden: torch.Tensor) -> torch.Tensor:
        """Choose weights [7] for a prompt whose rows [n_p, d] enter ``layer``."""
        mask = torch.ones(1, len(prompt_hidden), dtype=torch.bool, device=prompt_hidden.device)
        return self.choose(self.logits(layer, prompt_hidden[None], mask))[0]

    def to(self, device: torch.device) -> MiloraRouter:
        """Copy the router with its tensors on ``device``."""
        return MiloraRouter(
            {name: tensor.to(device) for name, tensor in self._tensors.items()},
            top_k=self._top_k,
            pooling=self._pooling,
            weighting=self._weighting,
            normalise=self._normalise,
        )
