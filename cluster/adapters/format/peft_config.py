"""Reads PEFT's ``adapter_config.json``; refuses by name the settings that are not served."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from cluster.adapters.format.default_targets import DEFAULT_TARGETS
from cluster.adapters.format.document import read_document
from cluster.adapters.format.invocation import read_invocation
from cluster.adapters.format.patterns import Patience
from cluster.adapters.format.peft_keys import refuse_features, unknown_keys
from cluster.adapters.format.peft_values import ConfigValues
from cluster.adapters.format.shown import shown, shown_name
from cluster.domain.adapter import AdapterManifest
from cluster.errors import AdapterMalformed, AdapterUnsupported

_T = TypeVar("_T")

ALL_LINEAR = "all-linear"
NOT_ALL_LINEAR = frozenset(("lm_head", "embed_out", "embed_tokens"))
"""Last parts of paths that "all-linear" leaves out: output heads, and what is not linear."""
VOCABULARY = ("model.embed_tokens", "lm_head")

CONVERTIBLE_INITS = ("pissa", "olora", "corda", "lora_ga")
"""Initialisations that subtract B A from the base's weights: what they took is known, and can be
given back."""
_ZERO_INITS = frozenset(("gaussian", "eva", "mica"))
_PLAIN_INITS = _ZERO_INITS | {"orthogonal"}


@dataclass(frozen=True, slots=True)
class PeftLoraConfig:
    """The honoured part of an ``adapter_config.json``."""

    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: tuple[tuple[str, int], ...]  # in the file's order: the first match wins
    alpha_pattern: tuple[tuple[str, float], ...]
    target_modules: tuple[str, ...] | str | None
    """Names, or one regular expression, or "all-linear"; None: the default of the model type."""
    exclude_modules: tuple[str, ...] | str
    layers_to_transform: tuple[int, ...] | None  # None: all layers
    layers_pattern: tuple[str, ...]
    base_model: str | None
    invocation_tokens: tuple[int, ...] = ()  # of an activated LoRA
    starts_at_zero: bool = True
    """True if a targeted module without tensors adds nothing, as PEFT initialises it."""
    ties_vocabulary: bool = False  # PEFT's ensure_weight_tying
    unknown_keys: tuple[str, ...] = ()  # on, ignored by PEFT, and taken for data
    initial: str = ""  # the initialisation that has changed the base; empty: none
    patience: Patience = field(default_factory=Patience, compare=False, repr=False)

    def rank_of(self, module: str) -> int:
        """Return the rank of a module, by PEFT's ``get_pattern_key``."""
        return _first_match(self.rank_pattern, module, self.rank, self.patience)

    def alpha_of(self, module: str) -> float:
        """Return the alpha of a module, by the same rule."""
        return _first_match(self.alpha_pattern, module, self.alpha, self.patience)

    def scaling_of(self, module: str) -> float:
        """Return ``alpha / r``, or ``alpha / sqrt(r)`` for rsLoRA (arXiv 2312.03732, eq. 4)."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.use_rslora else rank)

    def for_model(self, model_type: str) -> "PeftLoraConfig":
        """Return the same with PEFT's default targets for a type of model, if none are named.

        Raises:
            AdapterUnsupported: no default is known for the type.
        """
        if self.target_modules is not None:
            return self
        if model_type not in DEFAULT_TARGETS:
            raise AdapterUnsupported(
                f"target_modules: expected names, as no default is known for models of type "
                f"{shown(model_type)}, found null"
            )
        return replace(self, target_modules=DEFAULT_TARGETS[model_type])

    def targets(self, module: str) -> bool:
        """Return whether PEFT would adapt this module, by its ``check_target_module_exists``.

        For "all-linear" every module is a target but the output head, which PEFT leaves out.
        Without names everything may be one: ``for_model`` says what is.
        """
        if self._named(self.exclude_modules, module):
            return False
        if self.target_modules is None:
            return True
        if isinstance(self.target_modules, str):
            if self.target_modules.lower() == ALL_LINEAR:
                return module.rpartition(".")[2] not in NOT_ALL_LINEAR
            return self._named(self.target_modules, module)
        if module in self.target_modules:
            return True
        return self._named(self.target_modules, module) and self._in_layers(module)

    def _named(self, names: tuple[str, ...] | str, module: str) -> bool:
        if isinstance(names, str):
            return bool(names) and self.patience.matches(names, module)
        return any(module == name or module.endswith(f".{name}") for name in names)

    def _in_layers(self, module: str) -> bool:
        if self.layers_to_transform is None:
            return True
        if self.layers_pattern:
            patterns = [rf"(?:^|.*?\.){p}\.(?P<idx>\d+)\." for p in self.layers_pattern]
        else:
            patterns = [r".*?\.[^.]*\.(?P<idx>\d+)\."]
        for pattern in patterns:
            found = self.patience.match(pattern, module)
            if found:  # an alternative of layers_pattern may have left the number out
                return found["idx"] is not None and int(found["idx"]) in self.layers_to_transform
        return False


def module_ranks(manifest: AdapterManifest) -> dict[str, int]:
    """Return module path -> rank, for every module of an adapter."""
    patience = Patience()
    return {
        module: _first_match(manifest.rank_pattern, module, manifest.rank, patience)
        for module in manifest.modules
    }


def read_peft_config(path: Path, *, to_convert: bool = False) -> PeftLoraConfig:
    """Parse an ``adapter_config.json``.

    ``to_convert`` lets initialisations pass that have changed the base and can be converted.

    Raises:
        AdapterMalformed: the file is missing, not JSON, or a value is malformed.
        AdapterUnsupported: it uses a feature that Braid does not serve, named in the message.
    """
    content = read_document(path)
    where = str(path)
    _refuse_other_formats(where, content)
    refuse_features(where, content)
    values = ConfigValues(where, content)
    _refuse_layers_without_effect(where, content)
    return PeftLoraConfig(
        initial=_initial(where, content, to_convert),
        rank=values.positive_int("r", 8),
        alpha=values.number("lora_alpha", 8),
        use_rslora=values.flag("use_rslora"),
        rank_pattern=values.ranks("rank_pattern"),
        alpha_pattern=values.alphas("alpha_pattern"),
        target_modules=values.module_names("target_modules"),
        exclude_modules=values.module_names("exclude_modules") or (),
        layers_to_transform=values.layers("layers_to_transform"),
        layers_pattern=values.pattern_list("layers_pattern"),
        base_model=values.optional_string("base_model_name_or_path"),
        starts_at_zero=_starts_at_zero(content.get("init_lora_weights", True)),
        ties_vocabulary=values.flag("ensure_weight_tying"),
        unknown_keys=unknown_keys(where, content),
        invocation_tokens=read_invocation(path, content),
    )


def _refuse_other_formats(where: str, content: Mapping[str, Any]) -> None:
    kind = content.get("peft_type")
    if kind == "LORA":
        return
    if kind is None and ("lora_parameters" in content or "fine_tune_type" in content):
        raise AdapterUnsupported(
            f"{where}: an adapter in mlx's format, which is not served; convert it to PEFT's"
        )
    raise AdapterUnsupported(f"{where}: peft_type: expected 'LORA', found {shown(kind)}")


def _refuse_layers_without_effect(where: str, content: Mapping[str, Any]) -> None:
    """Refuse a choice of layers without a rule in PEFT, with which PEFT loads nothing.

    Raises:
        AdapterMalformed: with the field that goes with another.
    """
    layers, pattern = (content.get(key) for key in ("layers_to_transform", "layers_pattern"))
    chosen = "layers_pattern" if pattern else "layers_to_transform"
    if isinstance(content.get("target_modules"), str) and (pattern or layers not in (None, [])):
        raise AdapterMalformed(
            f"{where}: {chosen}: goes with a list of target_modules, found a string; list the "
            f"modules' names, or put the layers into the pattern and remove {chosen}"
        )
    if pattern and layers in (None, []):
        raise AdapterMalformed(
            f"{where}: layers_pattern: goes with layers_to_transform, found none; name the "
            "layers, or remove layers_pattern"
        )


def _initial(where: str, content: Mapping[str, Any], to_convert: bool) -> str:
    """Return the initialisation that has changed the base; empty if the base is unchanged.

    Raises:
        AdapterUnsupported: it cannot be served, or is not known.
    """
    # A bias setting alone is harmless; bias tensors are refused where tensor names are read.
    bias = content.get("bias", "none")
    if not isinstance(bias, str) or bias not in {"none", "all", "lora_only"}:
        raise AdapterUnsupported(f"{where}: bias: expected 'none', found {shown(bias)}")
    init = content.get("init_lora_weights", True)
    if not isinstance(init, str | bool | None):
        raise AdapterMalformed(
            f"{where}: init_lora_weights: expected true, false or a name, found {shown(init)}"
        )
    if not isinstance(init, str) or init.lower() in _PLAIN_INITS:
        return ""
    name = init.lower()
    if name == "loftq":
        raise AdapterUnsupported(
            f"{where}: init_lora_weights: {init!r} was trained with weights that LoftQ had "
            "replaced, and nothing converts it; merge it into those weights, or train without LoftQ"
        )
    if not name.startswith(CONVERTIBLE_INITS):
        raise AdapterUnsupported(f"{where}: init_lora_weights: {shown_name(init)} is not known")
    if not to_convert:
        raise AdapterUnsupported(
            f"{where}: init_lora_weights: {shown_name(init)} has changed the base's weights; with "
            "the adapter as it was before training, `braid adapters convert` makes a plain LoRA "
            "of it"
        )
    return name


def _starts_at_zero(init: Any) -> bool:
    return init.lower() in _ZERO_INITS if isinstance(init, str) else bool(init)


def _first_match(
    patterns: tuple[tuple[str, _T], ...], module: str, default: _T, patience: Patience
) -> _T:
    for pattern, value in patterns:
        if patience.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
