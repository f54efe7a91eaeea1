"""Loads an adapter folder into host tensors, checked against the base model it must fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.format.manifest import (
    AdapterDigester,
    AdapterFiles,
    read_adapter_files,
    read_all,
)
from cluster.adapters.format.safetensors_file import TensorInfo
from cluster.adapters.validation.adapter_checks import (
    check_all_finite,
    check_fit,
    check_limits,
    check_vocabulary,
)
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AdapterConfig
from cluster.domain.adapter import AdapterManifest, BaseCheck
from cluster.domain.ids import AdapterDigest
from cluster.errors import AdapterLoadFailed

_TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


class LoraTensors(NamedTuple):
    """One module's LoRA."""

    A: Tensor  # [r, d_in]
    B: Tensor  # [d_out, r]
    scaling: float  # alpha / r, or alpha / sqrt(r)


@dataclass(frozen=True, slots=True)
class HostAdapter:
    """A verified adapter in host memory, in the file's dtype, or fp32 for fp64."""

    manifest: AdapterManifest
    tensors: Mapping[str, LoraTensors]  # module path -> tensors

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in host memory."""
        return sum(t.A.nbytes + t.B.nbytes for t in self.tensors.values())


def load_adapter(
    path: Path,
    base: BaseShapes,
    config: AdapterConfig,
    expected_digest: AdapterDigest | None = None,
    *,
    base_check: BaseCheck | None = None,
    links_below: Path | None = None,
) -> HostAdapter:
    """Read and verify an adapter; limits and shapes are checked before any data is read.

    Args:
        path: folder with PEFT's files.
        base: what it must fit.
        config: limits.
        expected_digest: of the version that was asked for; the bytes must still be its.
        base_check: in place of the config's, for this adapter.
        links_below: as of ``read_adapter_files``.

    Raises:
        AdapterError: malformed, too large, for another base, or not finite. The message names
            file, tensor, expected and found.
        AdapterUnsupported: a PEFT feature that Braid does not serve, by name.
        AdapterLoadFailed: the files changed since the catalog was scanned.
    """
    files = read_adapter_files(path, links_below=links_below)
    limits = AdapterLimits.from_config(config, base_check)
    check_limits(files, limits)
    check_fit(files, base, limits)
    digester = AdapterDigester(files)
    data = read_all(files)
    for info in files.header.tensors:
        digester.update(info, data[info.begin : info.end])
    check_all_finite(files, data)
    for info in files.header.tensors:
        check_vocabulary(files, base, info, data[info.begin : info.end])
    digest = digester.finish()
    if expected_digest is not None and digest != expected_digest:
        raise AdapterLoadFailed(
            f"{files.weights}: expected version {expected_digest}, found {digest}: "
            "the files changed since they were catalogued"
        )
    return HostAdapter(files.manifest(digest), tensors_of(files, data))


def tensors_of(files: AdapterFiles, data: memoryview) -> dict[str, LoraTensors]:
    """Return the matrices of each module, over the bytes of all tensors."""
    return {
        module: LoraTensors(_to_tensor(t.A, data), _to_tensor(t.B, data), files.scaling(module))
        for module, t in files.modules.items()
    }


def _to_tensor(info: TensorInfo, data: memoryview) -> Tensor:
    found = torch.frombuffer(data[info.begin : info.end], dtype=_TORCH_DTYPES[info.dtype])
    # PEFT's model is fp32 at most, so it rounds an fp64 file once, before anything is computed.
    return found.to(torch.float32 if info.dtype == "F64" else found.dtype).reshape(info.shape)
