"""Lists the keys of PEFT's ``adapter_config.json``, and their effects on an adapter's answers.

A test compares this table with the installed PEFT, so that a key of a new release is noticed.
"""

from collections.abc import Mapping
from typing import Any

from cluster.adapters.format.shown import shown, shown_name
from cluster.errors import AdapterUnsupported

HONOURED = {
    "peft_type": "must be LORA",
    "r": "rank of every module that rank_pattern does not name",
    "lora_alpha": "alpha of every module that alpha_pattern does not name",
    "use_rslora": "scaling is alpha / sqrt(r) in place of alpha / r",
    "rank_pattern": "ranks of modules by pattern",
    "alpha_pattern": "alphas of modules by pattern",
    "target_modules": "which modules may have tensors; null: the default of the model's type",
    "exclude_modules": "which of them may not",
    "layers_to_transform": "layers that target_modules is limited to",
    "layers_pattern": "what the list of layers is called",
    "base_model_name_or_path": "compared with the base that is served",
    "init_lora_weights": "refused where the initialisation has changed the base's weights",
    "bias": "alone without effect; tensors of biases are refused",
    "alora_invocation_tokens": "activated LoRA: it applies from their last occurrence on",
    "ensure_weight_tying": "refused where the embedding or the output head is a target",
}
"""Keys that are read."""

WITHOUT_EFFECT = {
    "auto_mapping": "which class the base was",
    "peft_version": "who wrote the file",
    "revision": "of the base on the hub",
    "inference_mode": "whether it was saved for training",
    "task_type": "which class wraps the base; adapters of causal models add nothing of their own",
    "lora_dropout": "in training alone",
    "fan_in_fan_out": "orientation of the base's weight; the adapter's tensors are the same",
    "megatron_core": "name of a package that megatron_config would load",
    "qalora_group_size": "read where use_qalora is true alone",
    "loftq_config": "of an initialisation; read where init_lora_weights is loftq alone",
    "eva_config": "of an initialisation; the tensors are there",
    "corda_config": "of an initialisation; read where init_lora_weights is corda alone",
    "lora_ga_config": "of an initialisation; read where init_lora_weights is lora_ga alone",
    "velora_config": "compresses activations in training; evaluation computes plain LoRA",
    "runtime_config": "PEFT removes it from every file it reads",
    # Of tools around PEFT and of its first releases; PEFT ignores them.
    "merge_weights": "of PEFT in 2023: whether evaluation merged into the base",
    "unsloth_version": "who wrote the file",
    "unsloth_fixed": "of Unsloth's loader",
}
"""Keys that change nothing in what trained tensors compute."""

REFUSED = {
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
    "enable_lora": "LoRA on parts of a fused linear (enable_lora)",
}
"""Keys that change the computation where they are on, by what they switch on."""

HARMLESS_PREFIXES = ("unsloth_",)
"""Beginnings of keys that tools write about themselves."""

_COMPUTING = frozenset(
    (
        *("use", "uses", "enable", "enabled", "config", "variant", "dora"),
        *("scale", "scales", "scaling", "alpha", "rank", "ranks", "bias", "biases"),
        *("target", "targets", "module", "modules", "parameter", "parameters", "layer", "layers"),
        *("token", "tokens", "pattern", "patterns", "replication"),
        *("gate", "gates", "expert", "experts"),
    )
)
"""Words that no unknown key may have: every key of PEFT so far that changes the computation, and
none of these tables knows, would have one of them."""
_MAX_DATA = 4096  # characters of an unknown value that is taken for data


def refuse_features(where: str, content: Mapping[str, Any]) -> None:
    """Refuse keys that are known to change the computation.

    Raises:
        AdapterUnsupported: one is on; the message names it.
    """
    for key, feature in REFUSED.items():
        if content.get(key):
            raise AdapterUnsupported(
                f"{where}: {feature} is not served; found {shown(content[key])}"
            )


def unknown_keys(where: str, content: Mapping[str, Any]) -> tuple[str, ...]:
    """Return keys that are set, unknown to this table, and ignored by PEFT; sorted.

    They are data by name and value: nothing that a later PEFT could mean as an instruction.

    Raises:
        AdapterUnsupported: a key may change the computation.
    """
    found = []
    for key in sorted(set(content) - HONOURED.keys() - WITHOUT_EFFECT.keys() - REFUSED.keys()):
        value = content[key]
        if not value or key.startswith(HARMLESS_PREFIXES):
            continue
        if _computes(key) or not _is_data(value):
            raise AdapterUnsupported(
                f"{where}: {shown_name(key)}: not known, and may change what the adapter computes; "
                f"found {shown(value)}; train without it, or remove the key if it has no effect"
            )
        found.append(key)
    return tuple(found)


def _computes(key: str) -> bool:
    return bool(_COMPUTING & set(key.lower().split("_")))


def _is_data(value: Any) -> bool:
    if isinstance(value, list):
        return len(str(value)) <= _MAX_DATA and all(_is_data(item) for item in value)
    if isinstance(value, str):
        return len(value) <= _MAX_DATA
    return value is None or isinstance(value, int | float)  # bool is an int
