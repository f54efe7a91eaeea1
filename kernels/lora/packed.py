"""An adapter as the bank stores it: one row, ready to be copied into a lane."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from kernels.host_memory import allocate
from kernels.lora.sites import AdapterLayout, FusedSite

Signature = tuple[tuple[int, ...], ...]
"""Ranks per site and slice, 0 where a module is absent."""


@dataclass(frozen=True, slots=True)
class PackedAdapter:
    """A row of the bank in host memory."""

    signature: Signature
    layout: AdapterLayout
    row: torch.Tensor  # [numel] in the bank's storage

    @property
    def nbytes(self) -> int:
        """Bytes, in host memory and in a slot."""
        return self.row.nbytes

    @property
    def is_finite(self) -> bool:
        """True if the scaling and the storage's range have left every value finite."""
        # A sum with NaN or infinity is never finite; that of large finite values may not be.
        return bool(self.row.sum(dtype=torch.float32).isfinite() or self.row.isfinite().all())


def pack(
    sites: Sequence[FusedSite],
    signature: Signature,
    layout: AdapterLayout,
    tensors: Mapping[str, tuple[torch.Tensor, torch.Tensor, float]],
    *,
    storage: torch.dtype,
) -> PackedAdapter:
    """Lay tensors (module path -> A [r, in], B [width, r], scaling) out as one row.

    B is transposed and has the scaling folded in, computed in fp32 and rounded once.
    """
    row = torch.frombuffer(allocate(layout.numel * storage.itemsize), dtype=storage)
    for site, place in zip(sites, layout.sites, strict=True):
        present = [tensors[path] for path, _ in site.out_slices if path in tensors]
        at = place.offset
        for part, (lora_a, lora_b, scaling) in zip(place.slices, present, strict=True):
            size = part.rank * place.in_features
            row[at : at + size].view(part.rank, place.in_features).copy_(lora_a)
            at += size
            target = row[part.offset : part.offset + part.rank * part.width]
            target = target.view(part.rank, part.width)
            torch.mul(lora_b.to(torch.float32).t(), scaling, out=target)
    return PackedAdapter(signature, layout, row)
