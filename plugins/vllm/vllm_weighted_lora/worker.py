"""Changes vLLM's workers: members of mixtures are loaded, kept and dropped there.

`AdapterCalls` is the worker extension class whose methods ``collective_rpc`` reaches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.layers.logits_processor import LogitsProcessorWithLoRA
from vllm.lora.lora_model import LoRAModel
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager, WorkerLoRAManager

from vllm_weighted_lora.adapter_checks import check_config, check_weights
from vllm_weighted_lora.engine_side import FIRST_MEMBER, AdmittedMixture, is_mixture, wrap
from vllm_weighted_lora.mixtures import Term, decode
from vllm_weighted_lora.row_weights import Parts
from vllm_weighted_lora.weighted_sum import slots_innermost


class AdapterCalls:
    """Worker extension: ``worker_extension_cls="vllm_weighted_lora.worker.AdapterCalls"``."""

    model_runner: Any  # the worker's own

    def load_adapter(self, name: str, folder: str) -> int:
        """Load an adapter into a slot, where it stays until ``unload_adapter``.

        Args:
            name: any text; mixtures name it.
            folder: PEFT's ``adapter_config.json`` and ``adapter_model.safetensors``.

        Returns:
            Bytes of its slot on the device.

        Raises:
            ValueError: the slots are taken, the name is in use, or the adapter cannot be used; the
                message names it and says why.
        """
        return _members(self.model_runner).load_to_stay(name, folder)

    def unload_adapter(self, name: str) -> None:
        """Free the slot of an adapter that ``load_adapter`` loaded; does nothing if it is gone."""
        _members(self.model_runner).unload(name)


@dataclass(slots=True)
class _Member:
    """An adapter, by the number that vLLM's manager knows it by."""

    number: int
    folder: str


class Members:
    """Knows the adapters of one worker's mixtures, and has vLLM's manager load them."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._resident: dict[str, _Member] = {}
        self._on_demand: dict[tuple[str, str], _Member] = {}
        self._numbers = count(FIRST_MEMBER)
        modules = manager._adapter_manager.modules.items()
        self._heads = [name for name, mod in modules if isinstance(mod, LogitsProcessorWithLoRA)]

    def load_to_stay(self, name: str, folder: str) -> int:
        """Load and pin an adapter; returns the bytes of a slot."""
        slots = self._manager._adapter_manager.lora_slots
        if name in self._resident:
            raise ValueError(f"adapter {name!r} is loaded already: unload it first")
        if len(self._resident) >= slots:
            raise ValueError(f"adapter {name!r} does not fit: all {slots} slots are taken")
        member = _Member(next(self._numbers), folder)
        try:
            self._ensure(name, member, pinned=True)
        except BaseException:
            self._manager.remove_adapter(member.number)
            raise
        self._resident[name] = member
        return self._slot_bytes()

    def unload(self, name: str) -> None:
        """Free an adapter's slot."""
        member = self._resident.pop(name, None)
        if member is not None:
            self._manager.remove_adapter(member.number)

    def load(self, mixtures: Mapping[int, Sequence[Term]]) -> dict[int, Parts]:
        """Load what is not loaded of a step's mixtures.

        Args:
            mixtures: by number, their terms. Together they must fit into the slots.

        Returns:
            By number, the members' own numbers and weights.
        """
        wanted = {(term.name, term.folder) for terms in mixtures.values() for term in terms}
        numbers = {member: self._load(*member) for member in wanted}
        return {
            number: tuple((numbers[term.name, term.folder], term.weight) for term in terms)
            for number, terms in mixtures.items()
        }

    def at_head(self) -> list[int]:
        """Return the numbers of loaded adapters that reach the output head."""
        return [
            number
            for number, lora in self._manager._adapter_manager.list_adapters().items()
            if any(name in lora.loras for name in self._heads)
        ]

    def _load(self, name: str, folder: str | None) -> int:
        if folder is None:
            member = self._resident.get(name)
            if member is None:
                raise ValueError(f"adapter {name!r} is not loaded")
        else:
            if (name, folder) not in self._on_demand:
                self._on_demand[name, folder] = _Member(next(self._numbers), folder)
            member = self._on_demand[name, folder]
        self._ensure(name, member, pinned=folder is None)
        return member.number

    def _ensure(self, name: str, member: _Member, *, pinned: bool) -> None:
        # Also touches what is loaded, so that this step's members are the last to be dropped; and
        # brings back what vLLM removed with everything else, after warming up or sleeping.
        self._manager.add_adapter(LoRARequest(name, member.number, member.folder))
        if pinned:
            self._manager.pin_adapter(member.number)

    def _slot_bytes(self) -> int:
        total = 0
        for module in self._manager._adapter_manager.modules.values():
            for stacks in (module.lora_a_stacked, module.lora_b_stacked):
                for stack in stacks if isinstance(stacks, tuple) else (stacks,):
                    total += stack[0].numel() * stack.element_size()
        return total


def change_workers() -> None:
    """Wrap the methods of vLLM's manager of adapters, once in a process."""
    wrap(LRUCacheWorkerLoRAManager, "create_lora_manager", _create_manager)
    wrap(LRUCacheWorkerLoRAManager, "_apply_adapters", _apply_adapters)
    wrap(LRUCacheWorkerLoRAManager, "add_adapter", _add_adapter)
    wrap(WorkerLoRAManager, "_load_adapter", _load_adapter)


def _create_manager(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    model = original(self, *args, **kwargs)
    self.mixture_members = Members(self)
    for module in self._adapter_manager.modules.values():
        if isinstance(module, LogitsProcessorWithLoRA):
            module.lora_b_stacked = slots_innermost(module.lora_b_stacked)
        elif isinstance(module, BaseLinearLayerWithLoRA) and not _sharded(self):
            module.lora_b_stacked = tuple(map(slots_innermost, module.lora_b_stacked))
    return model


def _sharded(manager: Any) -> bool:
    return bool(manager.lora_config.fully_sharded_loras)


def _apply_adapters(original: Any, self: Any, lora_requests: set[LoRARequest]) -> None:
    members: Members = self.mixture_members
    mixtures = {r.lora_int_id: r.terms for r in lora_requests if isinstance(r, AdmittedMixture)}
    original(self, {request for request in lora_requests if not is_mixture(request)})
    parts = members.load(mixtures)
    at_head = members.at_head()
    for wrapper in self._adapter_manager.punica_wrapper_mapping.values():
        wrapper.row_weights.mixtures = parts
        wrapper.row_weights.at_head = at_head


def _add_adapter(original: Any, self: Any, lora_request: LoRARequest) -> bool:
    if not is_mixture(lora_request):
        return bool(original(self, lora_request))
    terms, _ = decode(lora_request.lora_path)
    if len(terms) > self._adapter_manager.lora_slots:
        raise ValueError(f"the mixture needs {len(terms)} slots, and max_loras is less")
    self.mixture_members.load({lora_request.lora_int_id: terms})
    return True


def _load_adapter(original: Any, self: Any, lora_request: LoRARequest) -> LoRAModel:
    if lora_request.lora_int_id < FIRST_MEMBER:
        return original(self, lora_request)
    try:
        if _sharded(self):
            raise ValueError("mixtures do not work with fully_sharded_loras")
        check_config(lora_request.lora_path, self.lora_config.max_lora_rank)
        lora = original(self, lora_request)
        check_weights(lora, self._adapter_manager)
    except Exception as error:
        raise ValueError(
            f"adapter {lora_request.lora_name!r} ({lora_request.lora_path}) cannot be used: {error}"
        ) from error
    return lora


def _members(model_runner: Any) -> Members:
    manager = getattr(model_runner, "lora_manager", None)
    members = getattr(manager, "mixture_members", None)
    if not isinstance(members, Members):
        raise ValueError("vLLM was started without enable_lora: no adapter can be loaded")
    return members
