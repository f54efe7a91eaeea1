"""PEFT's ``adapter_config.json``: what Braid honours, and what it refuses by name."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cluster.adapters.document import read_document
from cluster.adapters.invocation import read_invocation
from cluster.adapters.patterns import MAX_PATTERNS, compiled, match, matches
from cluster.domain.adapter import AdapterManifest
from cluster.errors import AdapterMalformed, AdapterUnsupported

_T = TypeVar("_T")

ALL_LINEAR = "all-linear"
MAX_PATTERN_CHARS = 512

_HONOURED = {
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "base_model_name_or_path",
    "init_lora_weights",
    "bias",
    "alora_invocation_tokens",
}
# Provenance and training-time settings: no effect on what trained tensors compute.
_WITHOUT_EFFECT = {
    "auto_mapping",
    "peft_version",
    "revision",
    "inference_mode",
    "task_type",
    "lora_dropout",
    "fan_in_fan_out",  # orientation of the base weight; the adapter's tensors are the same
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",
    "megatron_core",
    "qalora_group_size",
    "ensure_weight_tying",
    "runtime_config",
}
_REFUSED = {
    "use_dora": "DoRA (use_dora)",
    "modules_to_save": "fully trained modules (modules_to_save)",
    "trainable_token_indices": "trained token embeddings (trainable_token_indices)",
    "lora_bias": "a bias on lora_B (lora_bias)",
    "megatron_config": "Megatron layers (megatron_config)",
    "layer_replication": "replicated layers (layer_replication)",
    "target_parameters": "adapted parameters (target_parameters)",
    "use_qalora": "QALoRA (use_qalora)",
    "use_bdlora": "block-diagonal LoRA (use_bdlora)",
    "arrow_config": "Arrow routing (arrow_config)",
    "monteclora_config": "MonteCLoRA (monteclora_config)",
    "kasa_config": "KaSA (kasa_config)",
}
# These initialisations subtract from the base weights, so the tensors alone do not say the rest.
_REFUSED_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
_PLAIN_INITS = {"gaussian", "eva", "orthogonal", "mica"}


@dataclass(frozen=True, slots=True)
class PeftLoraConfig:
    """The honoured part of an ``adapter_config.json``."""

    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: tuple[tuple[str, int], ...]  # in the file's order: the first match wins
    alpha_pattern: tuple[tuple[str, float], ...]
    target_modules: tuple[str, ...] | str  # names, or one regular expression, or "all-linear"
    exclude_modules: tuple[str, ...] | str
    layers_to_transform: tuple[int, ...] | None  # None: all layers
    layers_pattern: tuple[str, ...]
    base_model: str | None
    invocation_tokens: tuple[int, ...] = ()  # of an activated LoRA

    def rank_of(self, module: str) -> int:
        """Rank of a module, by PEFT's ``get_pattern_key``."""
        return _first_match(self.rank_pattern, module, self.rank)

    def alpha_of(self, module: str) -> float:
        """Alpha of a module, by the same rule."""
        return _first_match(self.alpha_pattern, module, self.alpha)

    def scaling_of(self, module: str) -> float:
        """``alpha / r``, or ``alpha / sqrt(r)`` for rsLoRA (arXiv 2312.03732, eq. 4)."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.use_rslora else rank)

    def targets(self, module: str) -> bool:
        """Whether PEFT would adapt this module, by its ``check_target_module_exists``.

        For "all-linear" every module is a target but the output head, which PEFT leaves out.
        """
        if _names(self.exclude_modules, module):
            return False
        if isinstance(self.target_modules, str):
            if self.target_modules.lower() == ALL_LINEAR:
                return module.rpartition(".")[2] not in {"lm_head", "embed_out"}
            return _names(self.target_modules, module)
        if module in self.target_modules:
            return True
        return _names(self.target_modules, module) and self._in_layers(module)

    def _in_layers(self, module: str) -> bool:
        if self.layers_to_transform is None:
            return True
        if self.layers_pattern:
            patterns = [rf"(?:^|.*?\.){p}\.(?P<idx>\d+)\." for p in self.layers_pattern]
        else:
            patterns = [r".*?\.[^.]*\.(?P<idx>\d+)\."]
        for pattern in patterns:
            found = match(pattern, module)
            if found:
                return int(found["idx"]) in self.layers_to_transform
        return False


def module_ranks(manifest: AdapterManifest) -> dict[str, int]:
    """Module path -> rank, for every module of an adapter."""
    return {
        module: _first_match(manifest.rank_pattern, module, manifest.rank)
        for module in manifest.modules
    }


def read_peft_config(path: Path) -> PeftLoraConfig:
    """Parse an ``adapter_config.json``.

    Raises:
        AdapterMalformed: the file is missing, not JSON, or a value is malformed.
        AdapterUnsupported: it uses a feature that Braid does not serve, named in the message.
    """
    content = read_document(path)
    _refuse_unsupported(path, content)
    return PeftLoraConfig(
        rank=_positive_int(path, "r", content.get("r", 8)),
        alpha=_number(path, "lora_alpha", content.get("lora_alpha", 8)),
        use_rslora=_boolean(path, "use_rslora", content.get("use_rslora") or False),
        rank_pattern=_pattern(path, "rank_pattern", content, _positive_int),
        alpha_pattern=_pattern(path, "alpha_pattern", content, _number),
        target_modules=_module_names(path, "target_modules", content),
        exclude_modules=_module_names(path, "exclude_modules", content),
        layers_to_transform=_layers(path, content.get("layers_to_transform")),
        layers_pattern=_layers_pattern(path, content),
        base_model=_optional_string(path, content, "base_model_name_or_path"),
        invocation_tokens=read_invocation(path, content),
    )


def _refuse_unsupported(path: Path, content: dict[str, Any]) -> None:
    kind = content.get("peft_type")
    if kind != "LORA":
        raise AdapterUnsupported(f"{path}: peft_type: expected 'LORA', found {kind!r}")
    for key, feature in _REFUSED.items():
        if content.get(key):
            raise AdapterUnsupported(f"{path}: {feature} is not served; found {content[key]!r}")
    # A bias setting alone is harmless; bias tensors are refused where tensor names are read.
    if content.get("bias", "none") not in {"none", "all", "lora_only"}:
        raise AdapterUnsupported(f"{path}: bias: expected 'none', found {content['bias']!r}")
    init = content.get("init_lora_weights", True)
    if isinstance(init, str):
        name = init.lower()
        if name.startswith(_REFUSED_INITS):
            raise AdapterUnsupported(
                f"{path}: init_lora_weights: {init!r} changes the base weights; "
                "save the adapter with PEFT's path_initial_model_for_weight_conversion"
            )
        if name not in _PLAIN_INITS:
            raise AdapterUnsupported(f"{path}: init_lora_weights: {init!r} is not known")
    for key in sorted(set(content) - _HONOURED - _WITHOUT_EFFECT - set(_REFUSED)):
        if content[key]:
            raise AdapterUnsupported(f"{path}: {key}: not known; found {content[key]!r}")


def _names(targets: tuple[str, ...] | str, module: str) -> bool:
    if isinstance(targets, str):
        return bool(targets) and matches(targets, module)
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _first_match(patterns: tuple[tuple[str, _T], ...], module: str, default: _T) -> _T:
    for pattern, value in patterns:
        if match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _positive_int(path: Path, key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise AdapterMalformed(
            f"{path}: {key}: expected a whole number of at least 1, found {value!r}"
        )
    return value


def _number(path: Path, key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise AdapterMalformed(f"{path}: {key}: expected a finite number, found {value!r}")
    return float(value)


def _boolean(path: Path, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise AdapterMalformed(f"{path}: {key}: expected true or false, found {value!r}")
    return value


def _regex(path: Path, key: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_PATTERN_CHARS:
        raise AdapterMalformed(
            f"{path}: {key}: expected a pattern of at most {MAX_PATTERN_CHARS} characters, "
            f"found {value!r}"
        )
    try:
        compiled(value)
    except AdapterMalformed as error:
        raise AdapterMalformed(f"{path}: {key}: {error.message}") from error
    return value


def _pattern(path: Path, key: str, content: dict[str, Any], parse: Any) -> tuple[Any, ...]:
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise AdapterMalformed(f"{path}: {key}: expected an object, found {value!r}")
    if len(value) > MAX_PATTERNS:
        raise AdapterMalformed(
            f"{path}: {key}: expected at most {MAX_PATTERNS} patterns, found {len(value)}"
        )
    return tuple(
        (_regex(path, key, pattern), parse(path, f"{key}[{pattern!r}]", item))
        for pattern, item in value.items()
    )


def _module_names(path: Path, key: str, content: dict[str, Any]) -> tuple[str, ...] | str:
    value = content.get(key)
    if value is None:
        return ()
    if isinstance(value, str):
        return _regex(path, key, value)
    return _strings(path, key, value)


def _strings(path: Path, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise AdapterMalformed(f"{path}: {key}: expected a list of strings, found {value!r}")
    return tuple(sorted(value))


def _layers(path: Path, value: Any) -> tuple[int, ...] | None:
    if value is None or value == []:
        return None
    layers = [value] if isinstance(value, int) else value
    if not isinstance(layers, list) or not all(isinstance(item, int) for item in layers):
        raise AdapterMalformed(
            f"{path}: layers_to_transform: expected layer numbers, found {value!r}"
        )
    return tuple(sorted(layers))


def _layers_pattern(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    value = content.get("layers_pattern") or []
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list):
        raise AdapterMalformed(
            f"{path}: layers_pattern: expected a list of strings, found {value!r}"
        )
    return tuple(_regex(path, "layers_pattern", pattern) for pattern in patterns)


def _optional_string(path: Path, content: dict[str, Any], key: str) -> str | None:
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise AdapterMalformed(f"{path}: {key}: expected a string, found {value!r}")
    return value
