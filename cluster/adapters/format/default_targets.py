"""Lists the modules that PEFT adapts if ``target_modules`` is null, by the base's model type."""

_QUERY_AND_VALUE = ("q_proj", "v_proj")

DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("llama", "mistral", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3", "stablelm"),
        _QUERY_AND_VALUE,
    ),
    **dict.fromkeys(("opt", "gptj", "gpt_neo"), _QUERY_AND_VALUE),
    "phi": ("fc1", "fc2", "q_proj", "v_proj"),
    "gpt_neox": ("query_key_value",),
    "falcon": ("query_key_value",),
    "bloom": ("query_key_value",),
}
"""Model type, as the base's config.json has it -> names of modules, sorted."""
