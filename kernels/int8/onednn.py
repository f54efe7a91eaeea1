"""The int8 product through oneDNN, for CPUs without AMX."""

from __future__ import annotations

import torch

from kernels.int8.digits import quantise_weight, split_rows


def onednn_available() -> bool:
    """Return whether this torch has oneDNN's int8 product."""
    return torch._C._has_mkldnn and hasattr(torch.ops.onednn, "qlinear_pointwise")


class OneDnnLinear:
    """y = x W^T + b with an int8 weight and inputs of two digits (`kernels.int8.digits`)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Quantise ``weight`` [out, in]; ``bias`` is [out]. Keeps neither.

        Raises:
            ValueError: a weight is NaN or infinite.
        """
        self.out_features, self.in_features = weight.shape
        quantised = quantise_weight(weight)
        self._columns = quantised.columns
        # A row of zeros has steps of zero, and the library asks for scales above it.
        self._scales = quantised.scales.clamp_min(torch.finfo(torch.float32).tiny)
        self._weights = torch.ops.onednn.qlinear_prepack(quantised.steps, None)
        self._zero_points = torch.zeros(self.out_features, dtype=torch.int32)
        self._bias = None if bias is None else bias.detach().float().clone()
        self._linear = torch.ops.onednn.qlinear_pointwise.default

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return [..., out] in the dtype of ``x`` [..., in]."""
        rows = x.reshape(-1, self.in_features)
        scales, digits = split_rows(torch.mul(rows, self._columns))
        y = self._linear(
            digits.flatten(0, 1), 1.0, 0, self._weights, self._scales, self._zero_points,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        high, low = y.view(2, rows.shape[0], self.out_features)
        y = torch.add(low, high, alpha=256.0).mul_(scales)
        if self._bias is not None:
            y.add_(self._bias)
        return y.to(x.dtype).view(*x.shape[:-1], self.out_features)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        weights = self.out_features * self.in_features  # the packed tensor does not tell
        bias = 0 if self._bias is None else self._bias.nbytes
        held = (self._scales, self._columns, self._zero_points)
        return weights + sum(tensor.nbytes for tensor in held) + bias
