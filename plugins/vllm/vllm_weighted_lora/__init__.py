"""Weighted mixtures of LoRA adapters for every request, in unmodified vLLM.

vLLM loads `plugin.register` in each of its processes by the entry point `vllm.general_plugins`.
A request for a mixture is made by `mixture_request`; README.md describes the rest.
"""

from vllm_weighted_lora.requests import mixture_request

__all__ = ["mixture_request"]
