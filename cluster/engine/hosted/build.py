"""Builds an engine whose host runs vLLM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog
import torch

from cluster.clock import Clock
from cluster.config import AdapterConfig, EngineConfig
from cluster.engine.device_name import device_name
from cluster.engine.hosted.adapter_files import AdapterFiles
from cluster.engine.hosted.base_facts import BaseFacts
from cluster.engine.hosted.environment import find_python, host_environment
from cluster.engine.hosted.host_link import HostLink
from cluster.engine.hosted.hosted_engine import HostedEngine
from cluster.engine.hosted.hosted_requests import HostedRequests
from cluster.engine.hosted.hosted_slots import HostedSlots
from cluster.engine.hosted.messages import Ready, Start
from cluster.engine.hosted.relay_loop import RelayLoop
from cluster.engine.hosted.slot_ranks import slot_rank
from cluster.engine.hosted.step_account import StepAccount
from cluster.engine.port import BuiltEngine, OnChunks
from cluster.engine.sampling.grammar import GrammarCompiler
from cluster.errors import ConfigError
from cluster.nvidia import has_nvidia_device

log = structlog.get_logger(__name__)

MOST_TERMS = 8
"""Adapters of a mixture that vllm_weighted_lora takes."""
_SEED_MASK = (1 << 31) - 1


def build_hosted_engine(
    model_dir: Path,
    config: EngineConfig,
    adapter_config: AdapterConfig,
    *,
    clock: Clock,
    on_chunks: OnChunks,
    new_seed: Callable[[], int],
    tensor_parallel: int = 1,
) -> BuiltEngine:
    """Start a host, let it load a model, and put an engine before it.

    Args:
        model_dir: folder with config.json and safetensors.
        config: of the engine.
        adapter_config: slots, ranks and memory of adapters.
        clock: time of deadlines and the heartbeat.
        on_chunks: receives each step's chunks.
        new_seed: a seed for the draws of requests that have none.
        tensor_parallel: ranks that one model is spread over.

    Raises:
        ModelSourceError: the model is of a kind that is not known.
        ConfigError: vLLM is not installed, or cannot serve this model as configured.
    """
    if adapter_config.max_mixture > MOST_TERMS:
        raise ConfigError(
            f"adapters.max_mixture is {adapter_config.max_mixture}; with engine.kind 'vllm' a "
            f"mixture has at most {MOST_TERMS} adapters"
        )
    python = find_python(config)
    facts = BaseFacts.read(model_dir)
    dtype = adapter_dtype(config, adapter_config)
    rank = slot_rank(adapter_config, facts.module_shapes, dtype.itemsize)
    start = Start(
        model=str(model_dir),
        dtype=str(dtype).removeprefix("torch."),
        max_model_len=config.max_model_len,
        max_batch_size=config.max_batch_size,
        max_batch_tokens=config.max_batch_tokens,
        block_size=config.block_size,
        device=config.device,
        kv_blocks=config.usual_kv_blocks,
        kv_blocks_named=config.kv_blocks != "auto",
        kv_bytes=config.vllm.kv_bytes,
        prefix_cache=config.prefix_cache,
        eager=not config.cuda_graphs,
        slots=adapter_config.slots,
        max_rank=rank,
        tensor_parallel=tensor_parallel,
        seed=new_seed() & _SEED_MASK,
        options=dict(config.vllm.options),
    )
    files = AdapterFiles(dtype)
    link = HostLink(python, host_environment(config.threads), start)
    loop = RelayLoop(link, clock, on_chunks, on_end=files.close)
    ready = loop.open()
    device = _device_of(ready, config)
    log.info(
        "engine_host.ready",
        pid=link.process.pid,
        vllm=ready.version,
        device=device,
        kv_blocks=ready.kv_blocks,
        slots=adapter_config.slots,
        slot_rank=rank,
    )
    slots = HostedSlots(
        loop.calls,
        files,
        adapter_config,
        rank=rank,
        shapes=facts.module_shapes,
        item_bytes=dtype.itemsize,
    )
    requests = HostedRequests.over(config, ready.kv_blocks, ready.vocab_size)
    loop.attach(requests, StepAccount(requests, loop.counters, slots.size, config.block_size))
    engine = HostedEngine(
        requests=requests,
        loop=loop,
        slots=slots,
        max_model_len=min(ready.max_model_len, ready.kv_blocks * config.block_size),
        eos_token_ids=facts.eos_token_ids,
        clock=clock,
        grammars=GrammarCompiler(model_dir, ready.vocab_size, facts.eos_token_ids),
    )
    return BuiltEngine(
        engine=engine,
        adapters=slots,
        module_shapes=facts.module_shapes,
        vocab_size=ready.vocab_size,
        device=device,
        gates=False,
    )


def _device_of(ready: Ready, config: EngineConfig) -> str:
    """Return what the host computes on; its costs are not those of another engine there."""
    if ready.device_type == "cpu":
        return f"vllm, {device_name(torch.device('cpu'), config.threads)}"
    return f"vllm, {ready.device_type}: {ready.device_name}"


def adapter_dtype(config: EngineConfig, adapter_config: AdapterConfig) -> torch.dtype:
    """Return the type of the base's and the adapters' values: vLLM has one for both.

    Raises:
        ConfigError: the configuration asks for another.
    """
    device = config.device
    if device == "auto":
        device = "cuda" if has_nvidia_device() else "cpu"
    dtype = config.dtype_on(device)
    if adapter_config.dtype not in ("auto", dtype):
        raise ConfigError(
            f"adapters.dtype is {adapter_config.dtype!r} and engine.dtype {dtype!r}; with "
            "engine.kind 'vllm' adapters are of the engine's type: leave adapters.dtype out"
        )
    found = getattr(torch, dtype)
    assert isinstance(found, torch.dtype)
    return found
