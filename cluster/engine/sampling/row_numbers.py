"""Numbers of the rows that draw, brought to the device in one copy that no step waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch

_FLOAT32 = torch.finfo(torch.float32)


class DrawingRow(Protocol):
    """The part of `SamplingRow` that is needed here."""

    @property
    def temperature(self) -> float: ...

    @property
    def top_k(self) -> int: ...

    @property
    def top_p(self) -> float: ...

    @property
    def min_p(self) -> float: ...


@dataclass(frozen=True, slots=True)
class RowNumbers:
    """Holds what rows draw by.

    Indices are int64. Each list but ``temperature`` and ``uniform`` is of the rows that its index
    names, and empty if none of them is limited so.
    """

    places: torch.Tensor  # [rows], of each in the step's logits
    temperature: torch.Tensor  # [rows] fp32
    uniform: torch.Tensor  # [rows] fp64, in [0, 1)
    limited: torch.Tensor
    top_k: torch.Tensor  # int64
    nucleus: torch.Tensor
    top_p: torch.Tensor  # fp32
    floored: torch.Tensor
    min_p: torch.Tensor  # fp32
    most_k: int  # largest of ``top_k``, on the host

    @classmethod
    def of(
        cls,
        rows: Sequence[DrawingRow],
        places: Sequence[int],
        uniforms: Sequence[float],
        vocabulary: int,
        device: torch.device,
    ) -> Self:
        """Bring the numbers of ``rows`` to a device."""
        limited = [i for i, row in enumerate(rows) if 0 < row.top_k < vocabulary]
        nucleus = [i for i, row in enumerate(rows) if row.top_p < 1]
        floored = [i for i, row in enumerate(rows) if row.min_p > 0]
        top_k = [rows[i].top_k for i in limited]
        # As 0 a likeliest token, and as infinity an impossible one, would have the probability NaN.
        temperatures = [min(max(row.temperature, _FLOAT32.tiny), _FLOAT32.max) for row in rows]
        ints = [places, limited, top_k, nucleus, floored]
        floats = [temperatures, [rows[i].top_p for i in nucleus], [rows[i].min_p for i in floored]]
        words = send(
            torch.cat(
                (
                    torch.tensor([number for part in ints for number in part]),
                    torch.tensor(
                        [number for part in (*floats, uniforms) for number in part],
                        dtype=torch.float64,
                    ).view(torch.int64),
                )
            ),
            device,
        )
        sizes = [sum(map(len, ints)), sum(map(len, floats)), len(uniforms)]
        integers, numbers, uniform = words.split_with_sizes(sizes)
        singles = numbers.view(torch.float64).float()
        at = integers.split_with_sizes([len(part) for part in ints])
        temperature, top_p, min_p = singles.split_with_sizes([len(part) for part in floats])
        return cls(
            places=at[0],
            temperature=temperature,
            uniform=uniform.view(torch.float64),
            limited=at[1],
            top_k=at[2],
            nucleus=at[3],
            top_p=top_p,
            floored=at[4],
            min_p=min_p,
            most_k=max(top_k, default=0),
        )


def send(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the host to a device. From page-locked memory, which a GPU's copy begins in,
    the host need not wait for it."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
