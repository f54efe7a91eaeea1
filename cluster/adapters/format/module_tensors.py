"""Finds the two matrices of each adapted module in a file, and checks them against the config."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.adapters.format.peft_config import PeftLoraConfig
from cluster.adapters.format.safetensors_file import SafetensorsHeader, TensorInfo
from cluster.adapters.format.shown import shown, shown_name
from cluster.adapters.format.tensor_names import TensorNames
from cluster.errors import AdapterMalformed, AdapterUnsupported

_DTYPES = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True, slots=True)
class ModuleTensors:
    """Locates one module's two matrices in the file."""

    A: TensorInfo  # [r, d_in]
    B: TensorInfo  # [d_out, r]

    @property
    def rank(self) -> int:
        """Rank, as the tensors have it."""
        return self.A.shape[0]


def group_modules(
    path: Path, header: SafetensorsHeader, names: TensorNames
) -> dict[str, ModuleTensors]:
    """Put the two matrices of each module together; sorted by module.

    Raises:
        AdapterUnsupported: a tensor of a type that is not served.
        AdapterMalformed: a matrix without its partner, or none at all.
    """
    sides: dict[str, dict[str, TensorInfo]] = {"lora_A": {}, "lora_B": {}}
    for info in header.tensors:
        if info.dtype not in _DTYPES:
            raise AdapterUnsupported(
                f"{path}: {info.name}: expected F64, F32, F16 or BF16, found {info.dtype}"
            )
        if info.name in names.lora:
            found = names.lora[info.name]
            sides[found.side][found.module] = info
    modules = sorted(sides["lora_A"].keys() | sides["lora_B"].keys())
    if not modules:
        raise AdapterMalformed(
            f"{path}: expected tensors base_model.model.<module>.lora_A.weight, found none"
        )
    for side, found_there in sides.items():
        for module in modules:
            if module not in found_there:
                name = f"base_model.model.{module}.{side}.weight"
                raise AdapterMalformed(f"{path}: {name}: expected with its partner, found none")
    return {m: ModuleTensors(sides["lora_A"][m], sides["lora_B"][m]) for m in modules}


def check_modules(
    path: Path, config: PeftLoraConfig, modules: Mapping[str, ModuleTensors], names: TensorNames
) -> None:
    """Refuse tensors that the config does not speak of, or of another rank than it says.

    Raises:
        AdapterMalformed: with the first of them.
    """
    for module, tensors in modules.items():
        _check_module(path, config, module, tensors)
    _check_wrapped(path, config, names)


def _check_module(path: Path, config: PeftLoraConfig, module: str, tensors: ModuleTensors) -> None:
    rank = config.rank_of(module)
    for info, axis, side in ((tensors.A, 0, "[r, d_in]"), (tensors.B, 1, "[d_out, r]")):
        if len(info.shape) != 2 or info.shape[axis] != rank or 0 in info.shape:
            raise AdapterMalformed(
                f"{path}: {info.name}: expected {side} with r = {rank} by the config, "
                f"found {shown(list(info.shape))}"
            )
    check_targeted(path, config, module, tensors)


def check_targeted(path: Path, config: PeftLoraConfig, module: str, tensors: ModuleTensors) -> None:
    """Refuse tensors of a module that PEFT would not adapt.

    Raises:
        AdapterMalformed: with the first of them.
    """
    if not config.targets(module):
        raise AdapterMalformed(
            f"{path}: {tensors.A.name}: its config does not target "
            f"{shown_name(module)} "
            "(target_modules, exclude_modules, layers_to_transform, layers_pattern)"
        )


def _check_wrapped(path: Path, config: PeftLoraConfig, names: TensorNames) -> None:
    """Refuse a config that means another thing for a module's path as it is in the file."""
    for tensor, found in names.lora.items():
        if found.written == found.module:
            continue
        agree = (
            config.targets(found.written) == config.targets(found.module)
            and config.rank_of(found.written) == config.rank_of(found.module)
            and config.alpha_of(found.written) == config.alpha_of(found.module)
        )
        if not agree:
            raise AdapterMalformed(
                f"{path}: {tensor}: the config's patterns mean another thing with "
                f"{names.wrapper} in the path than without; save the adapter of the unwrapped model"
            )
