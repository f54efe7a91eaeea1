"""Compares names of bases on the hub: copies and quantised versions are the same model.

Names are compared by their last part, without regard to case. What a quantiser puts at the end of
it is left out, and some names that differ otherwise are known. Shapes are compared besides.
"""

import re

_HUB_NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"

_SUFFIX = re.compile(
    r"[-_.](?:unsloth|bnb|dynamic|quantized|"
    r"(?:bnb[-_.])?(?:nf4|[48]-?bits?)|"  # bitsandbytes, mlx
    r"gptq|awq|hqq|eetq|aqlm|exl[23]|gguf|mlx|"
    r"g(?:32|64|128)|"  # the group size behind GPTQ and AWQ
    r"fp8|fp4|nvfp4|mxfp[48]|int[48]|w[48]a(?:4|8|16))$"
)
"""One mark of a quantiser; several may follow each other, as in -unsloth-bnb-4bit."""

ALIASES = {
    # Unsloth's names of models that have other names at their owners.
    "llama-2-7b": "llama-2-7b-hf",
    "llama-2-13b": "llama-2-13b-hf",
    "llama-2-7b-chat": "llama-2-7b-chat-hf",
    "codellama-7b": "codellama-7b-hf",
    "codellama-13b": "codellama-13b-hf",
    "codellama-34b": "codellama-34b-hf",
    "tinyllama": "tinyllama-1.1b-intermediate-step-1431k-3t",
    "tinyllama-chat": "tinyllama-1.1b-chat-v1.0",
    "mistral-7b": "mistral-7b-v0.1",
    "zephyr-sft": "mistral-7b-sft-beta",
    # Meta's models, which have lost a prefix.
    "meta-llama-3-8b": "llama-3-8b",
    "meta-llama-3-8b-instruct": "llama-3-8b-instruct",
    "meta-llama-3-70b": "llama-3-70b",
    "meta-llama-3-70b-instruct": "llama-3-70b-instruct",
    "meta-llama-3.1-8b": "llama-3.1-8b",
    "meta-llama-3.1-8b-instruct": "llama-3.1-8b-instruct",
    "meta-llama-3.1-70b": "llama-3.1-70b",
    "meta-llama-3.1-70b-instruct": "llama-3.1-70b-instruct",
}
"""Last parts of names, in lower case -> another one of the same model."""


def is_another_model(name: str, other: str) -> bool:
    """Report whether two names on the hub are of different models; of a folder nothing is known."""
    if not (re.fullmatch(_HUB_NAME, name) and re.fullmatch(_HUB_NAME, other)):
        return False
    return canonical(name) != canonical(other)


def canonical(name: str) -> str:
    """Return the last part of a name in lower case, without quantisers' suffixes, by its alias."""
    last = name.rpartition("/")[2].lower()
    while (found := _SUFFIX.search(last)) and found.start():
        last = last[: found.start()]
    return ALIASES.get(last, last)


def is_quantised_copy(name: str, other: str) -> bool:
    """Return whether two names of one model differ by more than owner and case."""
    parts = (name.rpartition("/")[2].lower(), other.rpartition("/")[2].lower())
    return parts[0] != parts[1] and not is_another_model(name, other)
