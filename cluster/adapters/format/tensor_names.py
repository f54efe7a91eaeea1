"""Reads an adapter's tensor names: PEFT's own, and the two ways in which trainers change them.

PEFT writes ``base_model.model.<module>.lora_A.weight``. A raw state dict has the adapter's name
behind ``lora_A``; a compiled or distributed model has ``_orig_mod`` or ``module`` in the path.
Either is taken out where it is the same in all names: no name ever stands for two modules.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from cluster.adapters.format.shown import shown_name
from cluster.errors import AdapterMalformed, AdapterUnsupported

PREFIX = ("base_model", "model")
SIDES = ("lora_A", "lora_B")
WRAPPERS = ("_orig_mod", "module")
"""Names that ``torch.compile`` and distributed training put into the path of a model."""
VOCABULARY_MODULES = frozenset(("embed_tokens", "lm_head"))
MAX_NAME_CHARS = 256


class LoraName(NamedTuple):
    """A tensor of LoRA."""

    module: str  # path in the base
    side: str  # lora_A or lora_B
    written: str  # the module's path as it is in the file


@dataclass(frozen=True, slots=True)
class TensorNames:
    """Sorts a file's tensors by their purpose."""

    lora: dict[str, LoraName]  # tensor -> what it is
    vocabulary: dict[str, str]  # tensor -> the base's tensor that it copies
    wrapper: str = ""  # taken out of every path
    adapter: str = ""  # the adapter's name behind lora_A, likewise


def read_tensor_names(where: str, names: Iterable[str]) -> TensorNames:
    """Classify a file's tensors by their names.

    Raises:
        AdapterUnsupported: a tensor is of a feature that is not served; the message names it.
        AdapterMalformed: names do not agree with each other.
    """
    paths = {name: tuple(name.split(".")) for name in names}
    for name in paths:
        if len(name) > MAX_NAME_CHARS:
            raise AdapterMalformed(
                f"{where}: {shown_name(name)}: expected a tensor's name of at most "
                f"{MAX_NAME_CHARS} characters, found {len(name)}"
            )
    plain, wrapper = _without_wrapper(where, paths)
    lora: dict[str, LoraName] = {}
    vocabulary: dict[str, str] = {}
    adapters: dict[str, str] = {}
    for name, parts in plain.items():
        copied = _copied_vocabulary(parts)
        if copied is not None:
            vocabulary[name] = copied
            continue
        found = _lora(parts)
        if found is None:
            raise AdapterUnsupported(f"{where}: {shown_name(name)}: {_unknown(parts)}")
        side, adapter, module = found
        adapters.setdefault(adapter, name)
        lora[name] = LoraName(module, side, _written(paths[name], side))
    if len(adapters) > 1:
        first, second = list(adapters.values())[:2]
        raise AdapterMalformed(
            f"{where}: {shown_name(second)}: expected the adapter's name behind lora_A and lora_B "
            f"in all tensors or in none, found another one than in {shown_name(first)}"
        )
    return TensorNames(lora, vocabulary, wrapper, next(iter(adapters), ""))


def _without_wrapper(
    where: str, paths: dict[str, tuple[str, ...]]
) -> tuple[dict[str, tuple[str, ...]], str]:
    """Remove the part that a wrapper has put at the same place of all paths.

    A wrapper is looked for before the prefix and behind it; a compiled layer's also further in.
    """
    places = {
        name: [
            (index, part)
            for index, part in enumerate(parts)
            if part == WRAPPERS[0] or (part == WRAPPERS[1] and index in (0, len(PREFIX)))
        ]
        for name, parts in paths.items()
    }
    found = next((place for place in places.values() if place), None)
    if found is None:
        return paths, ""
    for name, place in places.items():
        if place != found or len(place) != 1:
            raise AdapterUnsupported(
                f"{where}: {shown_name(name)}: expected {found[0][1]} once and at one place in all "
                "tensors; save the adapter of the unwrapped model"
            )
    index, wrapper = found[0]
    return {name: parts[:index] + parts[index + 1 :] for name, parts in paths.items()}, wrapper


def _own(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return a path without PEFT's prefix; empty if it has no such prefix."""
    return parts[len(PREFIX) :] if parts[: len(PREFIX)] == PREFIX else ()


def _lora(parts: tuple[str, ...]) -> tuple[str, str, str] | None:
    """Return (side, adapter's name or "", module)."""
    own = _own(parts)
    if len(own) < 3 or own[-1] != "weight":
        return None
    if own[-2] in SIDES:
        side, adapter, module = own[-2], "", own[:-2]
    elif own[-3] in SIDES and own[-2]:
        side, adapter, module = own[-3], own[-2], own[:-3]
    else:
        return None
    return (side, adapter, ".".join(module)) if module and all(module) else None


def _written(parts: tuple[str, ...], side: str) -> str:
    """Return the module's path as the file has it, without PEFT's prefix if that comes first."""
    own = _own(parts) or parts[len(PREFIX) + 1 :]
    end = len(own) - own[::-1].index(side) - 1
    return ".".join(own[:end])


def _copied_vocabulary(parts: tuple[str, ...]) -> str | None:
    """Return the base's tensor that an embedding or output head of the file copies."""
    own = _own(parts)
    if len(own) < 2 or own[-1] != "weight":
        return None
    module = own[:-2] if own[-2] == "base_layer" else own[:-1]
    if not module or module[-1] not in VOCABULARY_MODULES:
        return None
    return ".".join((*module, "weight"))


def _unknown(parts: tuple[str, ...]) -> str:
    last = parts[-1] if parts else ""
    if any(part.startswith("lora_embedding_") for part in parts):
        return "LoRA on embeddings is not served"
    if "lora_magnitude_vector" in parts:
        return "DoRA's magnitude vector is not served"
    if last == "bias":
        return "trained biases are not served"
    if "modules_to_save" in parts:
        return "fully trained modules are not served"
    if "token_adapter" in parts or "trainable_tokens_delta" in parts:
        return "trained token embeddings are not served"
    if last in ("lora_a", "lora_b"):
        return "an adapter in mlx's format, which is not served; convert it to PEFT's"
    if any("norm" in part for part in parts[-2:]):
        return "fully trained weights of norms are not served; train LoRA alone"
    if last == "weight" and not any(part.startswith("lora_") for part in parts):
        return "fully trained weights are not served; save the LoRA tensors alone"
    return f"expected {'.'.join(PREFIX)}.<module>.lora_A.weight or .lora_B.weight"
