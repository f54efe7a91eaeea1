"""Builds vLLM's engine core in this process, as a replica's configuration asks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor import Executor

from cluster.engine.hosted.host.own_grammars import take_own_grammars
from cluster.engine.hosted.messages import Start

ADAPTER_CALLS = "vllm_weighted_lora.worker.AdapterCalls"
KV_BYTES_UNASKED = 2**20
"""Given to vLLM where the number of blocks is known, so that it measures no memory."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


class SetupError(Exception):
    """The configuration cannot be carried out; the message says what to change."""


def build_core(start: Start, on_rank_lost: Callable[[], None]) -> EngineCore:
    """Load the model, and return an engine core that steps in this thread.

    Args:
        start: what to load.
        on_rank_lost: called in another thread if a process of a rank ends.

    Raises:
        SetupError: an option is not vLLM's, or is one that a field of the configuration sets.
        Exception: vLLM's own, where it cannot load or fit the model.
    """
    take_own_grammars()
    config = EngineArgs(**_arguments(start)).create_engine_config(UsageContext.ENGINE_CONTEXT)
    return EngineCore(
        config, Executor.get_class(config), log_stats=False, executor_fail_callback=on_rank_lost
    )


def _arguments(start: Start) -> dict[str, Any]:
    if start.device not in ("auto", current_platform.device_type):
        raise SetupError(
            f"engine.device is {start.device!r}, and this build of vLLM computes on "
            f"{current_platform.device_type!r}; install the other build, or leave the field out"
        )
    has_tokenizer = any((Path(start.model) / name).is_file() for name in TOKENIZER_FILES)
    ours: dict[str, Any] = {
        "model": start.model,
        "skip_tokenizer_init": not has_tokenizer,
        "dtype": start.dtype,
        "max_num_seqs": start.max_batch_size,
        "max_num_batched_tokens": start.max_batch_tokens,
        "block_size": start.block_size,
        "enable_prefix_caching": start.prefix_cache,
        "enforce_eager": start.eager,
        "tensor_parallel_size": start.tensor_parallel,
        "seed": start.seed,
        "max_logprobs": -1,
        "generation_config": "vllm",
        "structured_outputs_config": {"backend": "guidance"},
        "enable_lora": True,
        "max_loras": start.slots,
        "max_cpu_loras": start.slots,
        "max_lora_rank": start.max_rank,
        "worker_extension_cls": ADAPTER_CALLS,
        "disable_log_stats": True,
    }
    longest = start.max_model_len
    if start.kv_bytes is not None:
        ours["kv_cache_memory_bytes"] = start.kv_bytes
    elif start.kv_blocks_named or current_platform.is_cpu():
        ours["num_gpu_blocks_override"] = start.kv_blocks + 1  # one is never given out
        ours["kv_cache_memory_bytes"] = KV_BYTES_UNASKED
        longest = min(longest, start.kv_blocks * start.block_size)
    for name in start.options:
        if name in ours or name == "max_model_len":
            raise SetupError(
                f"engine.vllm.options.{name}: set by the engine's own fields; leave it out"
            )
        if name not in EngineArgs.__dataclass_fields__:
            raise SetupError(f"engine.vllm.options.{name}: vLLM has no such engine argument")
    limit = EngineArgs(model=start.model, skip_tokenizer_init=True).create_model_config()
    ours["max_model_len"] = min(longest, limit.max_model_len)
    return ours | start.options
