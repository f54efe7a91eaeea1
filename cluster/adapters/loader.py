"""An adapter folder -> host tensors, checked against the base model it must fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cluster.adapters.base_shapes import BaseShapes
from cluster.adapters.manifest import (
    AdapterDigester,
    AdapterFiles,
    read_adapter_files,
    stream_tensors,
)
from cluster.adapters.safetensors_file import TensorInfo
from cluster.config import AdapterConfig
from cluster.domain.adapter import AdapterManifest
from cluster.domain.ids import AdapterDigest
from cluster.errors import AdapterError, AdapterLoadFailed, AdapterUnsupported

_TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class LoraTensors(NamedTuple):
    """One module's LoRA."""

    A: Tensor  # [r, d_in]
    B: Tensor  # [d_out, r]
    scaling: float  # alpha / r, or alpha / sqrt(r)


@dataclass(frozen=True, slots=True)
class HostAdapter:
    """A verified adapter in host memory, in the file's dtype."""

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
) -> HostAdapter:
    """Read, verify and return an adapter; limits and shapes are checked before any data is read.

    With ``expected_digest`` the bytes must still be those of the generation that was asked for.

    Raises:
        AdapterError: malformed, too large, for another base, or not finite. The message names
            file, tensor, expected and found.
        AdapterUnsupported: a PEFT feature that Braid does not serve, by name.
        AdapterLoadFailed: the files changed since the catalog was scanned.
    """
    files = read_adapter_files(path)
    check_limits(files, config)
    check_fit(files, base, config)
    digester = AdapterDigester(files)
    read: dict[str, Tensor] = {}
    for info, data in stream_tensors(files):
        digester.update(info, data)
        read[info.name] = _to_tensor(files, info, data)
    digest = digester.finish()
    if expected_digest is not None and digest != expected_digest:
        raise AdapterLoadFailed(
            f"{files.weights}: expected generation {expected_digest}, found {digest}: "
            "the files changed since they were catalogued"
        )
    tensors = {
        module: LoraTensors(read[t.A.name], read[t.B.name], files.scaling(module))
        for module, t in files.modules.items()
    }
    return HostAdapter(files.manifest(digest), tensors)


def check_limits(files: AdapterFiles, config: AdapterConfig) -> None:
    """Refuse an adapter above the operator's rank or byte limit.

    Raises:
        AdapterUnsupported: with the limit and what was found.
    """
    if files.header.nbytes > config.memory_bytes:
        raise AdapterUnsupported(
            f"{files.weights}: expected at most {config.memory_bytes} bytes "
            f"(adapters.memory_bytes), found {files.header.nbytes}"
        )
    for tensors in files.modules.values():
        if tensors.rank > config.max_rank:
            raise AdapterUnsupported(
                f"{files.weights}: {tensors.A.name}: expected a rank of at most "
                f"{config.max_rank} (adapters.max_rank), found {tensors.rank}"
            )


def check_fit(files: AdapterFiles, base: BaseShapes, config: AdapterConfig) -> None:
    """Refuse an adapter that was made for another base, or that lacks tensors it should have.

    Raises:
        AdapterError: with the tensor, what the base has, and what the file has.
    """
    wanted = files.notes.base_digest
    same_name = config.base_check == "name" and files.config.base_model == base.model_id
    if wanted is not None and wanted != base.digest and not same_name:
        raise AdapterError(
            f"{files.weights.parent}: manifest.json: trained on base {wanted}, "
            f"but the base served is {base.digest}"
        )
    for module, tensors in files.modules.items():
        shape = base.modules.get(module)
        if shape is None:
            raise AdapterError(
                f"{files.weights}: {tensors.A.name}: the base has no linear module {module}"
            )
        d_out, d_in = shape
        _check_shape(files, tensors.A, (tensors.rank, d_in))
        _check_shape(files, tensors.B, (d_out, tensors.rank))
    for module in base.modules:
        if module not in files.modules and files.config.targets(module):
            raise AdapterError(
                f"{files.weights}: base_model.model.{module}.lora_A.weight: "
                "expected by the config's target_modules, found none"
            )


def _check_shape(files: AdapterFiles, info: TensorInfo, expected: tuple[int, int]) -> None:
    if info.shape != expected:
        raise AdapterError(
            f"{files.weights}: {info.name}: expected shape {list(expected)}, "
            f"found {list(info.shape)}"
        )


def _to_tensor(files: AdapterFiles, info: TensorInfo, data: bytearray) -> Tensor:
    tensor = torch.frombuffer(data, dtype=_TORCH_DTYPES[info.dtype]).reshape(info.shape)
    if not torch.isfinite(tensor).all():
        broken = int((~torch.isfinite(tensor)).sum())
        raise AdapterError(
            f"{files.weights}: {info.name}: expected finite values, found {broken} that are not"
        )
    return tensor
