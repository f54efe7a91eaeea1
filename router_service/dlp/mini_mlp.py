"""The DLP router's network in numpy: the front routes without loading torch.

DLP-LoRA names a 4-layer "mini-MLP" of 5M parameters and publishes neither widths nor code for it;
this architecture is ours: hashed features -> embedding -> attention pool and mean -> 4 linears.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cluster.config import Section

Floats = NDArray[np.float32]


class NetworkConfig(Section):
    """Widths; the defaults with 30,000 buckets make 4.8M parameters."""

    width: Annotated[int, Field(ge=1)] = 128
    """d, of an embedding."""
    hidden: tuple[int, int, int] = (768, 640, 384)
    """Outputs of the first three linear layers; the fourth has one per candidate."""


def tensor_shapes(
    config: NetworkConfig, buckets: int, candidates: int
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the artifact, linears as [in, out]."""
    widths = (2 * config.width, *config.hidden, candidates)
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (buckets, config.width),
        "query": (config.width,),
    }
    for layer in range(4):
        shapes[f"linear.{layer}.weight"] = (widths[layer], widths[layer + 1])
        shapes[f"linear.{layer}.bias"] = (widths[layer + 1],)
    return shapes


@dataclass(frozen=True)
class MiniMlp:
    """Inference for one text at a time, on the calling thread alone.

    einsum without optimisation stays out of BLAS, whose threads cost a matrix-vector product of
    this size more than the product does (4 ms of CPU a text instead of 0.3), taken from decoding.
    """

    embedding: Floats  # [V, d]
    query: Floats  # [d]
    linears: tuple[tuple[Floats, Floats], ...]  # ([out, in], [out]) x 4

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.floating]]) -> "MiniMlp":
        """Build from the tensors named in ``tensor_shapes``, in any float type."""
        full = {name: np.ascontiguousarray(t, dtype=np.float32) for name, t in tensors.items()}
        return cls(
            embedding=full["embedding"],
            query=full["query"],
            linears=tuple(
                (
                    np.ascontiguousarray(full[f"linear.{layer}.weight"].T),
                    full[f"linear.{layer}.bias"],
                )
                for layer in range(4)
            ),
        )

    def logits(self, ids: list[int]) -> Floats:
        """Compute u [N] of one text's feature ids [T]; no features pool to zero.

        With e_t = E[id_t]: a = softmax_t(e_t . q / sqrt(d)), h = [sum_t a_t e_t ; mean_t e_t],
        then ReLU between four linear layers.
        """
        width = self.query.shape[0]
        if ids:
            e = self.embedding[ids]  # [T, d]
            scores = np.einsum("td,d->t", e, self.query) / np.float32(np.sqrt(width))
            a = np.exp(scores - scores.max())
            attended = np.einsum("t,td->d", a / a.sum(), e)
            h = np.concatenate((attended, e.mean(axis=0)))  # [2d]
        else:
            h = np.zeros(2 * width, dtype=np.float32)
        last = len(self.linears) - 1
        for layer, (weight, bias) in enumerate(self.linears):
            h = np.einsum("oi,i->o", weight, h) + bias
            if layer != last:
                np.maximum(h, 0, out=h)
        return h
