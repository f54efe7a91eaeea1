"""Registers the plugin; vLLM calls `register` in each of its processes before anything else."""

from __future__ import annotations

from vllm_weighted_lora.versions import require_vllm

_CPU = "vllm_weighted_lora.cpu_wrapper.MixtureWrapperCPU"
_CUDA = "vllm_weighted_lora.cuda_wrapper.MixtureWrapperGPU"
_registered = False


def register() -> None:
    """Change vLLM so that mixtures work; does nothing the second time.

    Raises:
        ImportError: vLLM has another version.
        RuntimeError: a part of vLLM that is used here is not as expected, or the device is neither
            a CPU nor a CUDA GPU. Each message says what.
    """
    global _registered
    if _registered:
        return
    require_vllm()
    from vllm.platforms import current_platform

    from vllm_weighted_lora.touchpoints import missing

    if faults := missing():
        raise RuntimeError("vllm-weighted-lora does not fit this vLLM: " + "; ".join(faults))
    if not (current_platform.is_cpu() or current_platform.is_cuda()):
        raise RuntimeError(
            f"vllm-weighted-lora works on CPUs and CUDA GPUs, not on {current_platform.device_name}"
        )
    wrapper = _CPU if current_platform.is_cpu() else _CUDA
    type(current_platform).get_punica_wrapper = classmethod(lambda _: wrapper)

    from vllm_weighted_lora.engine_side import change_engine
    from vllm_weighted_lora.resolver import register_resolver
    from vllm_weighted_lora.worker import change_workers

    change_engine()
    change_workers()
    register_resolver()
    _registered = True
