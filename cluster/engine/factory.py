"""Builds an engine from a folder and its configuration, of the kind that it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from cluster.clock import Clock
from cluster.config import AdapterConfig, EngineConfig
from cluster.engine.adapter_slots import BankSlots
from cluster.engine.device_name import device_name
from cluster.engine.engine import TorchEngine
from cluster.engine.execution.model_runner import ModelRunner
from cluster.engine.execution.step_batches import make_batches
from cluster.engine.hosted.build import build_hosted_engine
from cluster.engine.memory.available_memory import check_memory
from cluster.engine.memory.kv_room import cache_sizer
from cluster.engine.mixing_parts import MixingParts
from cluster.engine.model.adapter_bank import make_bank
from cluster.engine.model.model_loader import LoadedModel, load_model
from cluster.engine.port import BuiltEngine, OnChunks, OnReturned
from cluster.engine.sampling.grammar import GrammarCompiler
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.scheduler import Scheduler
from cluster.process_memory import return_free_memory
from kernels.compute_path import compute_path
from kernels.lora.bank import AdapterBank

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class BuiltTorchEngine(BuiltEngine):
    """A torch engine. Its bank is for measurements and tests that make adapters of tensors."""

    engine: TorchEngine
    bank: AdapterBank


def build_engine(
    model_dir: Path,
    config: EngineConfig,
    adapter_config: AdapterConfig,
    *,
    clock: Clock,
    on_chunks: OnChunks,
    new_seed: Callable[[], int],
    mixing: MixingParts | None = None,
    on_returned: OnReturned | None = None,
    tensor_parallel: int = 1,
) -> BuiltEngine:
    """Build an engine of the kind that is configured; as ``build_torch_engine``.

    Args:
        tensor_parallel: ranks that one model is spread over, where the kind has them.
    """
    if config.kind == "vllm":
        return build_hosted_engine(
            model_dir,
            config,
            adapter_config,
            clock=clock,
            on_chunks=on_chunks,
            new_seed=new_seed,
            tensor_parallel=tensor_parallel,
        )
    return build_torch_engine(
        model_dir,
        config,
        adapter_config,
        clock=clock,
        on_chunks=on_chunks,
        new_seed=new_seed,
        mixing=mixing,
        on_returned=on_returned,
    )


def build_torch_engine(
    model_dir: Path,
    config: EngineConfig,
    adapter_config: AdapterConfig,
    *,
    clock: Clock,
    on_chunks: OnChunks,
    new_seed: Callable[[], int],
    mixing: MixingParts | None = None,
    on_returned: OnReturned | None = None,
) -> BuiltTorchEngine:
    """Load a model and put an engine around it.

    Args:
        model_dir: folder with config.json and safetensors.
        config: of the engine.
        adapter_config: slots and largest rank of the bank.
        clock: time of steps, deadlines and the heartbeat.
        on_chunks: receives each step's chunks in the step thread.
        new_seed: a seed for each request that has none.
        mixing: gates and routers that requests may name.
        on_returned: see `cluster.engine.port.OnReturned`.

    Raises:
        ModelSourceError: the model cannot be loaded, or is of a kind not supported.
        ConfigError: the configuration does not fit the machine or itself.
    """
    check_memory(model_dir, config, adapter_config)
    loaded = load_model(model_dir, config)
    bank = make_bank(loaded, config, adapter_config)
    batches = make_batches(loaded, config, bank, adapter_config.max_mixture)
    size_cache = cache_sizer(model_dir, loaded, config, adapter_config)
    runner = ModelRunner(loaded, config, bank, mixing, batches, size_cache)
    pool = BlockPool(runner.kv_blocks, config.block_size, clock)
    scheduler = Scheduler(config, pool, clock)
    engine = TorchEngine(
        scheduler=scheduler,
        pool=pool,
        runner=runner,
        max_model_len=min(loaded.max_model_len, scheduler.max_model_len),
        eos_token_ids=loaded.eos_token_ids,
        clock=clock,
        on_chunks=on_chunks,
        new_seed=new_seed,
        grammars=GrammarCompiler(model_dir, loaded.vocab_size, loaded.eos_token_ids),
        on_returned=on_returned,
    )
    return_free_memory()
    _log_built(loaded, config, runner)
    return BuiltTorchEngine(
        engine=engine,
        adapters=BankSlots(bank, adapter_config, engine.give_up),
        module_shapes=_module_shapes(loaded),
        vocab_size=loaded.vocab_size,
        device=device_name(loaded.device, config.threads),
        bank=bank,
    )


def _log_built(loaded: LoadedModel, config: EngineConfig, runner: ModelRunner) -> None:
    """Say what was decided where the configuration leaves it open."""
    path = compute_path(loaded.device, loaded.dtype)
    lacks = {"lacks": path.lacks} if path.lacks else {}
    log.info(
        "engine built",
        device=device_name(loaded.device, config.threads),
        dtype=str(loaded.dtype).removeprefix("torch."),
        kv_blocks=runner.kv_blocks,
        tokens=runner.kv_blocks * config.block_size,
        kernels=path.name,
        **lacks,
    )


def _module_shapes(loaded: LoadedModel) -> dict[str, tuple[int, int]]:
    return {
        path: (width, site.in_features) for site in loaded.sites for path, width in site.out_slices
    }
