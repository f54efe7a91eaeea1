"""RMSNorm in one call, for the modules that compute exactly that."""

from __future__ import annotations

import torch
from torch import nn

from kernels.elementwise.ops import native_rows, rms_norm

_AGREEMENT = {torch.float32: 1e-6, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
"""Largest relative difference from the replaced module: the rounding of one result."""


class FusedRMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight over the last axis, accumulated in fp32."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self._shape = (weight.shape[0],)
        self.weight = weight  # not a parameter: reading one costs a look-up through the module
        self._on_cpu = weight.device.type == "cpu"
        self.native = self._on_cpu and weight.dtype == torch.float32 and weight.is_contiguous()
        self.eps_value = torch.full((1,), eps)
        self._inverse_width = 1.0 / weight.shape[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        if self.native and native_rows(x):
            return rms_norm(x, weight, self.eps_value)
        if self._on_cpu:
            # torch.rms_norm is a chain of ten small operations on the CPU.
            norms = torch.linalg.vector_norm(x, 2.0, -1, True, dtype=torch.float32)
            factor = torch.add(self.eps_value, norms.square_(), alpha=self._inverse_width).rsqrt_()
            return x.mul(factor).mul_(weight).to(x.dtype)
        if x.dtype is weight.dtype:
            return torch.rms_norm(x, self._shape, weight, self.eps)
        return torch.rms_norm(x.float(), self._shape, weight, self.eps).to(x.dtype)

    __call__ = forward  # no hooks


def replace_norms(model: nn.Module) -> int:
    """Replaces every RMSNorm whose output a `FusedRMSNorm` reproduces; returns how many.

    Model families differ in details (Gemma multiplies by 1 + weight), so each candidate is compared
    with the module on random input, and a module that differs stays as it is.
    """
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if not type(child).__name__.endswith("RMSNorm") or isinstance(child, FusedRMSNorm):
                continue
            fused = _fused(child)
            if fused is not None:
                setattr(parent, name, fused)
                replaced += 1
    return replaced


def _fused(module: nn.Module) -> FusedRMSNorm | None:
    parameters = dict(module.named_parameters())
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    weight = parameters.get("weight")
    if len(parameters) != 1 or weight is None or weight.ndim != 1 or not isinstance(eps, float):
        return None
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(4, weight.shape[0], generator=generator).to(weight.device, weight.dtype)
        expected = module(x)
        for candidate in (weight.detach(), 1.0 + weight.detach().float()):
            fused = FusedRMSNorm(candidate, eps)
            limit = _AGREEMENT.get(weight.dtype, 0.0)
            if torch.allclose(fused(x), expected, rtol=limit, atol=limit):
                return fused
    return None
