"""Lists every private part of vLLM that this package calls, replaces or relies on.

`missing` compares the list with the vLLM that is installed, when the plugin is registered and in
the tests: a part that moved is named before a request meets it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True, slots=True)
class Touchpoint:
    """A part of vLLM.

    Attributes:
        module: where it lies.
        name: a class, a function, or a method as ``Class.method``.
        why: its use here.
        parameters: names of the parameters that are used, for a function.
        mentions: words that its source must hold, for what cannot be seen from outside.
    """

    module: str
    name: str
    why: str
    parameters: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()


ENGINE = (
    Touchpoint(
        "vllm.v1.engine.core",
        "EngineCore.preprocess_add_request",
        "wrapped: a mixture is checked, numbered and keyed before blocks are hashed",
        ("request",),
    ),
    Touchpoint(
        "vllm.v1.engine.core",
        "EngineCore.add_request",
        "wrapped: a request whose adapter is gone by now is aborted",
        ("request", "request_wave"),
        ("abort_immediately",),
    ),
    Touchpoint(
        "vllm.v1.engine.core",
        "EngineCore.collective_rpc",
        "wrapped: notes which adapters `load_adapter` and `unload_adapter` bring and take",
        ("method", "timeout", "args", "kwargs"),
    ),
    Touchpoint(
        "vllm.v1.core.sched.scheduler",
        "Scheduler.__init__",
        "wrapped: members are counted in place of requests",
        mentions=("self.lora_config", "self.running", "self.requests"),
    ),
    Touchpoint(
        "vllm.v1.core.sched.scheduler",
        "Scheduler._handle_blocked_waiting_request",
        "wrapped: asked for every request that waits, before vLLM's own count of adapters",
        ("request",),
    ),
    Touchpoint(
        "vllm.v1.core.sched.scheduler",
        "Scheduler.schedule",
        "calls the method above with each candidate, and counts adapters only with a `lora_config`",
        mentions=(
            "self._handle_blocked_waiting_request(request)",
            "self.lora_config.max_loras",
            "self.current_step += 1",
            "self.running.append(request)",
        ),
    ),
    Touchpoint(
        "vllm.v1.core.kv_cache_utils",
        "_gen_lora_extra_hash_keys",
        "keys the prefix cache by a request's name and path, which a mixture sets",
        ("request",),
        ("lora_request.lora_name", "lora_request.lora_path"),
    ),
)
WORKER = (
    Touchpoint(
        "vllm.lora.worker_manager",
        "LRUCacheWorkerLoRAManager.create_lora_manager",
        "wrapped: stacks are laid out for products without copies",
        ("model", "vllm_config"),
    ),
    Touchpoint(
        "vllm.lora.worker_manager",
        "LRUCacheWorkerLoRAManager._apply_adapters",
        "wrapped: a step's mixtures are replaced by their members",
        ("lora_requests",),
    ),
    Touchpoint(
        "vllm.lora.worker_manager",
        "LRUCacheWorkerLoRAManager.add_adapter",
        "wrapped: a mixture that is added ahead of requests loads its members",
        ("lora_request",),
    ),
    Touchpoint(
        "vllm.lora.worker_manager",
        "WorkerLoRAManager._load_adapter",
        "wrapped: weights that cannot be mixed are refused by name",
        ("lora_request",),
    ),
    Touchpoint(
        "vllm.lora.worker_manager",
        "WorkerLoRAManager.set_active_adapters",
        "calls `_apply_adapters` before the mapping of rows is set",
        ("requests", "mapping"),
        ("self._apply_adapters(", "set_adapter_mapping("),
    ),
    Touchpoint(
        "vllm.lora.worker_manager",
        "WorkerLoRAManager.pin_adapter",
        "called: an adapter that was loaded to stay is never dropped",
        ("adapter_id",),
    ),
    Touchpoint(
        "vllm.lora.worker_manager",
        "WorkerLoRAManager.remove_adapter",
        "called by `unload_adapter`",
        ("adapter_id",),
    ),
    Touchpoint(
        "vllm.lora.model_manager",
        "LoRAModelManager.__init__",
        "its fields are read: modules, packed modules, slots",
        mentions=("self.modules", "self.packed_modules", "self.lora_index_to_id"),
    ),
    Touchpoint(
        "vllm.lora.model_manager",
        "LoRAModelManager._init_punica_wrapper",
        "makes the wrappers, which get the mixtures of a step",
        mentions=("self.punica_wrapper_mapping", "get_punica_wrapper("),
    ),
    Touchpoint(
        "vllm.lora.model_manager",
        "LoRAModelManager._set_adapter_mapping",
        "hands the rows' numbers and the slots to the wrapper",
        ("mapping",),
        ("punica_wrapper.update_metadata(", "self.lora_index_to_id"),
    ),
    Touchpoint(
        "vllm.lora.layers.base_linear",
        "BaseLinearLayerWithLoRA._apply_lora_to_output",
        "calls the wrapper with the stacks of a layer",
        mentions=("self.punica_wrapper.add_lora_linear(", "self.lora_a_stacked"),
    ),
    Touchpoint(
        "vllm.lora.layers.base_linear",
        "BaseLinearLayerWithLoRA.create_lora_weights",
        "makes the stacks: [slots, 1, rank, inputs] and [slots, 1, outputs, rank]",
        ("max_loras", "lora_config", "model_config"),
        ("self.lora_a_stacked", "self.lora_b_stacked"),
    ),
    Touchpoint(
        "vllm.lora.layers.logits_processor",
        "LogitsProcessorWithLoRA.create_lora_weights",
        "makes the stacks of lm_head",
        mentions=("self.lora_a_stacked", "self.lora_b_stacked"),
    ),
    Touchpoint(
        "vllm.lora.layers",
        "LoRAMapping",
        "a mapping without mixtures is made of it",
        ("index_mapping", "prompt_mapping", "is_prefill", "type"),
    ),
    Touchpoint(
        "vllm.lora.punica_wrapper.punica_cpu",
        "PunicaWrapperCPU",
        "subclassed",
        ("max_num_batched_tokens", "max_batches", "device"),
    ),
    Touchpoint(
        "vllm.lora.punica_wrapper.punica_cpu",
        "PunicaWrapperCPU.add_lora_linear",
        "replaced",
        ("y", "x", "lora_a_stacked", "lora_b_stacked", "scale", "output_slices", "buffer"),
    ),
    Touchpoint(
        "vllm.lora.punica_wrapper.punica_cpu",
        "PunicaWrapperCPU.add_lora_logits",
        "replaced",
        ("y", "x", "lora_a_stacked", "lora_b_stacked", "scale", "buffer"),
    ),
    Touchpoint(
        "vllm.lora.punica_wrapper.punica_gpu",
        "PunicaWrapperGPU",
        "subclassed, although it is declared final",
        ("max_num_batched_tokens", "max_batches", "device"),
    ),
    Touchpoint(
        "vllm.lora.punica_wrapper.punica_gpu",
        "PunicaWrapperGPU.add_lora_linear",
        "replaced",
        ("y", "x", "lora_a_stacked", "lora_b_stacked", "scale", "output_slices", "buffer"),
    ),
    Touchpoint(
        "vllm.lora.punica_wrapper.punica_gpu",
        "PunicaWrapperGPU.add_lora_logits",
        "replaced",
        ("y", "x", "lora_a_stacked", "lora_b_stacked", "scale", "buffer"),
    ),
    Touchpoint(
        "vllm.lora.punica_wrapper.punica_selector",
        "get_punica_wrapper",
        "makes the wrapper that the platform names",
        mentions=("current_platform.get_punica_wrapper()",),
    ),
    Touchpoint(
        "vllm.v1.worker.lora_model_runner_mixin",
        "LoRAModelRunnerMixin.load_lora_model",
        "makes the `lora_manager` that the worker's calls use",
        mentions=("self.lora_manager = LRUCacheWorkerLoRAManager(",),
    ),
)
FRONT = (
    Touchpoint(
        "vllm.lora.request",
        "LoRARequest",
        "carries a mixture; subclassed in the engine",
        ("lora_name", "lora_int_id", "lora_path"),
    ),
    Touchpoint(
        "vllm.lora.resolver",
        "LoRAResolver.resolve_lora",
        "implemented: a model's name becomes a mixture",
        ("base_model_name", "lora_name"),
    ),
)
ALL = ENGINE + WORKER + FRONT


def missing(points: Iterable[Touchpoint] = ALL) -> list[str]:
    """List what the installed vLLM does not have, one line each; empty if nothing moved."""
    return [fault for point in points if (fault := _fault(point))]


def _fault(point: Touchpoint) -> str | None:
    found: object
    try:
        found = import_module(point.module)
        for part in point.name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return f"{point.module}.{point.name} is gone ({point.why})"
    found = inspect.unwrap(found) if callable(found) else found  # as it was before it was wrapped
    if point.parameters and callable(found):
        lacking = set(point.parameters) - set(inspect.signature(found).parameters)
        if lacking:
            names = ", ".join(sorted(lacking))
            return f"{point.module}.{point.name} takes no {names} any more ({point.why})"
    if point.mentions:
        source = inspect.getsource(found)  # type: ignore[arg-type]  # a function, as listed
        lost = [words for words in point.mentions if words not in source]
        if lost:
            return f"{point.module}.{point.name} no longer has {'; '.join(lost)} ({point.why})"
    return None
