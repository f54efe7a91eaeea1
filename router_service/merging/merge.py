"""One adapter out of several: exactly, or in factor space.

``cat`` is the weighted sum of the adapters' outputs and exact: its rank is the sum of theirs.
``linear`` and ``factors`` add the factors instead and so have cross terms B_i A_j: they are other
adapters, not the mixture.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from cluster.adapters.format.manifest import ANYWHERE, read_adapter_files
from cluster.adapters.loader import HostAdapter, LoraTensors, load_adapter
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AdapterConfig
from cluster.errors import AdapterError, AdapterUnsupported

Method = Literal["cat", "linear", "factors"]
Merged = dict[str, LoraTensors]

_LIMITS = AdapterConfig(max_rank=1024, memory_bytes=2**36)


def read_adapter(folder: Path) -> HostAdapter:
    """Read an adapter's tensors, for any base.

    Raises:
        AdapterError: the folder cannot be read or uses what Braid does not serve.
    """
    files = read_adapter_files(folder, links_below=ANYWHERE)
    if files.config.invocation_tokens:
        raise AdapterUnsupported(
            f"{folder}: an activated LoRA (alora_invocation_tokens) applies to a part of each "
            "prompt alone, so it can neither be merged nor weighed inside the model; name it in a "
            "request's mixture"
        )
    shapes = {m: (t.B.shape[0], t.A.shape[1]) for m, t in files.modules.items()}
    base = BaseShapes(files.labels.base_digest or "", shapes)
    return load_adapter(folder, base, _LIMITS, links_below=ANYWHERE)


def common_base(adapters: Mapping[str, HostAdapter]) -> tuple[str | None, str | None]:
    """Find the base, as (name, digest), on which all adapters say they were trained.

    Raises:
        AdapterError: two of them name different bases.
    """
    found: list[str | None] = []
    for field in ("base_model", "base_digest"):
        named = {a: getattr(adapter.manifest, field) for a, adapter in adapters.items()}
        said = sorted({value for value in named.values() if value is not None})
        if len(said) > 1:
            detail = ", ".join(f"{alias}: {value}" for alias, value in named.items())
            raise AdapterError(f"adapters of different bases cannot be merged: {detail}")
        found.append(said[0] if said else None)
    return found[0], found[1]


def merge(adapters: Sequence[HostAdapter], weights: Sequence[float], method: Method) -> Merged:
    """Compute the merged adapter's tensors in fp32, by module path.

    A module that an adapter does not touch has no term of it. The result of ``cat`` equals
    ``sum_i w_i scale_i B_i A_i`` exactly.

    Raises:
        AdapterError: shapes, or for ``linear`` and ``factors`` ranks or scales, that do not agree.
    """
    combine = _METHODS[method]
    merged: Merged = {}
    for path in sorted({path for adapter in adapters for path in adapter.tensors}):
        terms = [
            (adapter.tensors[path], weight)
            for adapter, weight in zip(adapters, weights, strict=True)
            if path in adapter.tensors
        ]
        _check_widths(path, terms)
        merged[path] = combine(path, [(_full(tensors), weight) for tensors, weight in terms])
    return merged


_Terms = Sequence[tuple[LoraTensors, float]]


def _cat(path: str, terms: _Terms) -> LoraTensors:
    """Concatenate: A = [w_i scale_i A_i], B = [B_i]; PEFT's ``cat``."""
    del path
    return LoraTensors(
        torch.cat([t.A * (weight * t.scaling) for t, weight in terms]),
        torch.cat([t.B for t, _ in terms], dim=1),
        1.0,
    )


def _linear(path: str, terms: _Terms) -> LoraTensors:
    """Add: A = sum sgn(c) sqrt|c| A_i, B = sum sqrt|c| B_i with c = w_i scale_i; PEFT's
    ``linear``."""
    _check_ranks(path, terms)
    a, b = torch.zeros_like(terms[0][0].A), torch.zeros_like(terms[0][0].B)
    for tensors, weight in terms:
        share = weight * tensors.scaling
        root = math.sqrt(abs(share))
        a += math.copysign(root, share) * tensors.A
        b += root * tensors.B
    return LoraTensors(a, b, 1.0)


def _factors(path: str, terms: _Terms) -> LoraTensors:
    """Add factors: A = sum w_i A_i, B = sum w_i B_i under the common scale, as LoraHub does."""
    _check_ranks(path, terms)
    scales = {tensors.scaling for tensors, _ in terms}
    if len(scales) > 1:
        raise AdapterError(f"{path}: factors of different scales cannot be added: {sorted(scales)}")
    a, b = torch.zeros_like(terms[0][0].A), torch.zeros_like(terms[0][0].B)
    for tensors, weight in terms:
        a += weight * tensors.A
        b += weight * tensors.B
    return LoraTensors(a, b, scales.pop())


_METHODS: dict[Method, Callable[[str, _Terms], LoraTensors]] = {
    "cat": _cat,
    "linear": _linear,
    "factors": _factors,
}


def _full(tensors: LoraTensors) -> LoraTensors:
    return LoraTensors(tensors.A.float(), tensors.B.float(), tensors.scaling)


def _check_widths(path: str, terms: _Terms) -> None:
    shapes = {(tensors.B.shape[0], tensors.A.shape[1]) for tensors, _ in terms}
    if len(shapes) > 1:
        raise AdapterError(f"{path}: adapters of different shapes: {sorted(shapes)}")


def _check_ranks(path: str, terms: _Terms) -> None:
    ranks = [tensors.A.shape[0] for tensors, _ in terms]
    if len(set(ranks)) > 1:
        raise AdapterError(f"{path}: factors of different ranks cannot be added: {ranks}")
