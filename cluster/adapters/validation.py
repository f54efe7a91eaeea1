"""Whether an adapter may be served: limits, base model, finite values. Knows no torch.

Everything the header can tell is checked before a byte of any tensor is read.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cluster.adapters.base_shapes import BaseShapes
from cluster.adapters.invocation import check_invocation
from cluster.adapters.limits import AdapterLimits
from cluster.adapters.manifest import (
    CONFIG_FILE,
    AdapterDigester,
    AdapterFiles,
    read_adapter_files,
    stream_tensors,
)
from cluster.adapters.safetensors_file import TensorInfo
from cluster.domain.adapter import AdapterManifest
from cluster.errors import (
    AdapterNotFinite,
    AdapterRankTooHigh,
    AdapterTooLarge,
    AdapterWrongBase,
)

MAX_SCALING = 1e4
"""Of alpha over the rank; larger ones leave the range in which a model answers with numbers."""
_HUB_NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"

# The bits that are all set in NaN and infinity, and only there: IEEE 754's exponent.
_EXPONENT: dict[str, tuple[np.dtype[Any], Any]] = {
    "F32": (np.dtype("<u4"), np.uint32(0x7F80_0000)),
    "F16": (np.dtype("<u2"), np.uint16(0x7C00)),
    "BF16": (np.dtype("<u2"), np.uint16(0x7F80)),
}


def validate_adapter(
    folder: Path,
    base: BaseShapes,
    limits: AdapterLimits,
    proceed: Callable[[], None] = lambda: None,
) -> tuple[AdapterManifest, tuple[str, ...]]:
    """Check a folder in every respect; its manifest and tags.

    ``proceed`` is called before each tensor is read and may raise to stop the work.

    Raises:
        AdapterError: one of its subclasses; the message names file, tensor or field, what was
            expected and what was found.
    """
    files = read_adapter_files(folder)
    check_limits(files, limits)
    check_fit(files, base, limits)
    digester = AdapterDigester(files)
    for info, data in stream_tensors(files):
        proceed()
        digester.update(info, data)
        check_finite(files.weights, info, data)
    return files.manifest(digester.finish()), files.notes.tags


def check_limits(files: AdapterFiles, limits: AdapterLimits) -> None:
    """Refuse an adapter above the operator's rank or byte limit.

    Raises:
        AdapterTooLarge, AdapterRankTooHigh: with the limit and what was found.
    """
    if files.header.nbytes > limits.max_bytes:
        raise AdapterTooLarge(
            f"{files.weights}: expected at most {limits.max_bytes} bytes "
            f"(adapters.memory_bytes), found {files.header.nbytes}"
        )
    for tensors in files.modules.values():
        if tensors.rank > limits.max_rank:
            raise AdapterRankTooHigh(
                f"{files.weights}: {tensors.A.name}: expected a rank of at most "
                f"{limits.max_rank} (adapters.max_rank), found {tensors.rank}"
            )


def check_fit(files: AdapterFiles, base: BaseShapes, limits: AdapterLimits) -> None:
    """Refuse an adapter that was made for another base, or that lacks tensors it should have.

    Raises:
        AdapterWrongBase: with the tensor, what the base has, and what the file has.
        AdapterNotFinite: its scaling is beyond ``MAX_SCALING``.
    """
    _check_base(files, base, limits)
    config_path = files.weights.parent / CONFIG_FILE
    check_invocation(config_path, files.config.invocation_tokens, base.vocab_size)
    for module, tensors in files.modules.items():
        scaling = files.scaling(module)
        if not abs(scaling) <= MAX_SCALING:
            raise AdapterNotFinite(
                f"{files.weights.parent}: adapter_config.json: lora_alpha or alpha_pattern: "
                f"expected a scaling of at most {MAX_SCALING:g}, found {scaling:g} at {module}"
            )
        shape = base.modules.get(module)
        if shape is None:
            raise AdapterWrongBase(
                f"{files.weights}: {tensors.A.name}: the base has no linear module {module}"
            )
        d_out, d_in = shape
        _check_shape(files, tensors.A, (tensors.rank, d_in))
        _check_shape(files, tensors.B, (d_out, tensors.rank))
    for module in base.modules:
        if module not in files.modules and files.config.targets(module):
            raise AdapterWrongBase(
                f"{files.weights}: base_model.model.{module}.lora_A.weight: "
                "expected by the config's target_modules, found none"
            )


def _check_base(files: AdapterFiles, base: BaseShapes, limits: AdapterLimits) -> None:
    """Compare what the adapter says of its base with the one that is served."""
    digest, name = files.notes.base_digest, files.config.base_model
    if limits.base_check == "shapes" or digest == base.digest:
        return
    if digest is not None and not (limits.base_check == "name" and name == base.model_id):
        raise AdapterWrongBase(
            f"{files.weights.parent}: manifest.json: trained on base {digest}, "
            f"but the base served is {base.digest}"
        )
    if digest is None and is_another_model(name or "", base.model_id):
        raise AdapterWrongBase(
            f"{files.weights.parent}: adapter_config.json: base_model_name_or_path: trained on "
            f"{name}, but the base served is {base.model_id}; if they are the same model, say so "
            "by adapters.base_check: shapes"
        )


def is_another_model(name: str, other: str) -> bool:
    """Whether two names on the hub differ in their last part; of a folder nothing is known."""
    if not (re.fullmatch(_HUB_NAME, name) and re.fullmatch(_HUB_NAME, other)):
        return False
    return name.rpartition("/")[2].lower() != other.rpartition("/")[2].lower()


def check_all_finite(files: AdapterFiles, data: memoryview) -> None:
    """``check_finite`` of every tensor; ``data`` is the whole data section.

    Raises:
        AdapterNotFinite: as ``check_finite``.
    """
    dtypes = {info.dtype for info in files.header.tensors}
    if len(dtypes) == 1 and _is_finite(dtypes.pop(), data):
        return
    for info in files.header.tensors:
        check_finite(files.weights, info, data[info.begin : info.end])


def check_finite(path: Path, info: TensorInfo, data: memoryview) -> None:
    """Refuse NaN and infinity; ``data`` are the tensor's bytes as the file has them.

    Raises:
        AdapterNotFinite: with the tensor, how many values, and the first one's index.
    """
    if _is_finite(info.dtype, data):
        return
    broken = _not_finite(info.dtype, data)
    first = np.unravel_index(int(broken.argmax()), info.shape)
    raise AdapterNotFinite(
        f"{path}: {info.name}: expected finite values, found {int(broken.sum())} that are "
        f"not, the first at {[int(i) for i in first]}"
    )


def _is_finite(dtype: str, data: memoryview) -> bool:
    if dtype == "F32":
        # A sum with NaN or infinity is never finite; that of large finite values may overflow.
        with np.errstate(all="ignore"):
            if np.isfinite(np.frombuffer(data, dtype="<f4").sum()):
                return True
    return not _not_finite(dtype, data).any()


def _not_finite(dtype: str, data: memoryview) -> Any:
    kind, exponent = _EXPONENT[dtype]
    return (np.frombuffer(data, dtype=kind) & exponent) == exponent


def _check_shape(files: AdapterFiles, info: TensorInfo, expected: tuple[int, int]) -> None:
    if info.shape != expected:
        raise AdapterWrongBase(
            f"{files.weights}: {info.name}: expected shape {list(expected)}, "
            f"found {list(info.shape)}"
        )
