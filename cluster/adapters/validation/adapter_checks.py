"""Checks whether an adapter may be served: limits, base model, finite values. Imports no torch.

Everything in the header is checked before a byte of any tensor is read.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.format.invocation import check_invocation
from cluster.adapters.format.manifest import (
    AdapterDigester,
    AdapterFiles,
    ReadAdapter,
    listed,
    read_adapter_files,
    stream_tensors,
)
from cluster.adapters.format.module_tensors import check_targeted
from cluster.adapters.format.peft_config import VOCABULARY, PeftLoraConfig
from cluster.adapters.format.safetensors_file import TensorInfo
from cluster.adapters.format.shown import shown, shown_name
from cluster.adapters.validation.base_names import is_another_model, is_quantised_copy
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.adapters.validation.saved_vocabulary import check_copy
from cluster.adapters.validation.template_check import check_template
from cluster.errors import (
    AdapterError,
    AdapterMalformed,
    AdapterNotFinite,
    AdapterRankTooHigh,
    AdapterTooLarge,
    AdapterUnsupported,
    AdapterWrongBase,
)

MAX_SCALING = 1e4
"""Of alpha over the rank; larger ones leave the range in which a model answers with numbers."""
TINKER_HEAD = "unembed_tokens"

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
) -> ReadAdapter:
    """Check a folder in every respect; what it says.

    ``proceed`` is called before each tensor is read and may raise to stop the work.

    Raises:
        AdapterError: one of its subclasses; the message names file, tensor or field, what was
            expected and what was found.
    """
    files = read_adapter_files(folder)
    check_limits(files, limits)
    notes = check_fit(files, base, limits)
    if files.chat_template is not None:
        check_template(str(folder), files.chat_template)
    digester = AdapterDigester(files)
    rounded = []
    for info, data in stream_tensors(files):
        proceed()
        digester.update(info, data)
        check_finite(files.weights, info, data)
        if check_vocabulary(files, base, info, data):
            rounded.append(info.name)
    if rounded:
        notes += (
            f"{files.weights.name}: the base's own values are used for these, which the file has "
            f"rounded: {listed(rounded)}",
        )
    manifest = files.manifest(digester.finish())
    return ReadAdapter(manifest, files.labels.tags, (*files.notes, *notes))


def check_limits(files: AdapterFiles, limits: AdapterLimits) -> None:
    """Refuse an adapter above the operator's rank or byte limit.

    Raises:
        AdapterTooLarge, AdapterRankTooHigh: with the limit and what was found.
    """
    if files.lora_nbytes > limits.max_bytes:
        raise AdapterTooLarge(
            f"{files.weights}: expected at most {limits.max_bytes} bytes "
            f"(adapters.memory_bytes), found {files.lora_nbytes}"
        )
    for tensors in files.modules.values():
        if tensors.rank > limits.max_rank:
            raise AdapterRankTooHigh(
                f"{files.weights}: {tensors.A.name}: expected a rank of at most "
                f"{limits.max_rank} (adapters.max_rank), found {tensors.rank}"
            )


def check_fit(files: AdapterFiles, base: BaseShapes, limits: AdapterLimits) -> tuple[str, ...]:
    """Refuse an adapter that was made for another base, or that PEFT would complete by chance.

    Returns:
        What people should know of how it fits, a sentence each.

    Raises:
        AdapterWrongBase: with the tensor, what the base has, and what the file has.
        AdapterMalformed: tensors that PEFT would not use, or would make up.
        AdapterUnsupported: it cannot be said what PEFT would adapt.
        AdapterNotFinite: its scaling is beyond ``MAX_SCALING``.
    """
    notes = _check_base(files, base, limits)
    config_path = f"{files.weights.parent}/adapter_config.json"
    check_invocation(Path(config_path), files.config.invocation_tokens, base.vocab_size)
    try:
        config = files.config.for_model(base.model_type)
    except AdapterUnsupported as error:
        raise AdapterUnsupported(f"{config_path}: {error.message}") from error
    for module, tensors in files.modules.items():
        scaling = files.scaling(module)
        if not abs(scaling) <= MAX_SCALING:
            raise AdapterNotFinite(
                f"{config_path}: lora_alpha or alpha_pattern: expected a scaling of at most "
                f"{MAX_SCALING:g}, found {scaling:g} at {module}"
            )
        shape = base.modules.get(module)
        if shape is None:
            raise _no_such_module(files, module, tensors.A.name)
        d_out, d_in = shape
        _check_shape(files, tensors.A, (tensors.rank, d_in))
        _check_shape(files, tensors.B, (d_out, tensors.rank))
        if files.config.target_modules is None:
            check_targeted(files.weights, config, module, tensors)
    if config.ties_vocabulary and any(config.targets(name) for name in VOCABULARY):
        raise AdapterUnsupported(
            f"{config_path}: ensure_weight_tying: LoRA that the embedding and the output head "
            "share is not served; found true"
        )
    return (*notes, *_missing(files, config, base))


def _missing(files: AdapterFiles, config: PeftLoraConfig, base: BaseShapes) -> tuple[str, ...]:
    """Note modules that the config targets and the file does not have.

    PEFT adds nothing there, unless their initialisation is random.
    """
    paths = (*base.modules, *(name for name in VOCABULARY if name not in base.modules))
    missing = [path for path in paths if path not in files.modules and config.targets(path)]
    if not missing:
        return ()
    if not config.starts_at_zero:
        raise AdapterMalformed(
            f"{files.weights}: base_model.model.{missing[0]}.lora_A.weight: expected by the "
            "config's target_modules, found none, and with its init_lora_weights PEFT would put "
            "values of chance there; name the modules that the file has"
        )
    return (
        f"adapter_config.json: {len(missing)} modules of target_modules have no tensors and stay "
        f"as the base's: {listed(missing)}",
    )


def _no_such_module(files: AdapterFiles, module: str, tensor: str) -> AdapterError:
    where = f"{files.weights}: {shown_name(tensor)}"
    if module.rpartition(".")[2] == TINKER_HEAD:
        return AdapterUnsupported(
            f"{where}: {TINKER_HEAD} is Tinker's name of the output head; export the adapter in "
            "PEFT's format"
        )
    return AdapterWrongBase(f"{where}: the base has no linear module {shown_name(module)}")


def _check_base(files: AdapterFiles, base: BaseShapes, limits: AdapterLimits) -> tuple[str, ...]:
    """Compare what the adapter says of its base with the one that is served."""
    digest, name = files.labels.base_digest, files.config.base_model or ""
    if limits.base_check == "shapes" or digest == base.digest:
        return ()
    advice = (
        "; if they are the same model, say so with --base-check shapes (base_check in a request), "
        "or for all by adapters.base_check"
    )
    if digest is not None and not (limits.base_check == "name" and name == base.model_id):
        raise AdapterWrongBase(
            f"{files.weights.parent}/manifest.json: trained on base {shown_name(digest)}, "
            f"but the base served is {base.digest}{advice}"
        )
    if digest is None and is_another_model(name, base.model_id):
        raise AdapterWrongBase(
            f"{files.weights.parent}/adapter_config.json: base_model_name_or_path: trained on "
            f"{shown_name(name)}, but the base served is {base.model_id}{advice}"
        )
    if digest is None and name and is_quantised_copy(name, base.model_id):
        return (f"adapter_config.json: {shown_name(name)} is taken for {base.model_id}",)
    return ()


def check_vocabulary(
    files: AdapterFiles, base: BaseShapes, info: TensorInfo, data: memoryview
) -> bool:
    """Refuse embeddings or an output head that are not the base's own; LoRA's tensors pass.

    Returns whether they are the base's but for rounding.

    Raises:
        AdapterUnsupported: as ``check_copy``.
    """
    copied = files.vocabulary.get(info.name)
    if copied is None:
        return False
    return check_copy(str(files.weights), info, data, copied, base.folder)


def check_all_finite(files: AdapterFiles, data: memoryview) -> None:
    """Apply ``check_finite`` to every tensor; ``data`` is the whole data section.

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
    if dtype == "F64":  # computed with as fp32: what fp32 does not have is not finite either
        with np.errstate(over="ignore"):
            return ~np.isfinite(np.frombuffer(data, dtype="<f8").astype("<f4"))
    kind, exponent = _EXPONENT[dtype]
    return (np.frombuffer(data, dtype=kind) & exponent) == exponent


def _check_shape(files: AdapterFiles, info: TensorInfo, expected: tuple[int, int]) -> None:
    if info.shape != expected:
        raise AdapterWrongBase(
            f"{files.weights}: {info.name}: expected shape {list(expected)}, "
            f"found {shown(list(info.shape))}"
        )
