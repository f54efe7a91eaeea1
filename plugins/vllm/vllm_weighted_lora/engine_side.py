"""Changes vLLM's engine core: mixtures are admitted, keyed and scheduled by their members."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache, wraps
from itertools import count
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.core import EngineCore

from vllm_weighted_lora.mixtures import SCHEME, Term, canonical_text, decode
from vllm_weighted_lora.slot_budget import Members, SlotBudget

FIRST_MIXTURE = 0x6000_0000
FIRST_MEMBER = 0x7000_0000
"""Numbers from which mixtures, and members in the workers, are counted; vLLM has 31 bits."""
_MIXTURES_KNOWN = 65536


class AdmittedMixture(LoRARequest):
    """A mixture as it goes to the workers.

    vLLM keys its prefix cache by name and path. In its sets, requests of one name are one; mixtures
    of one key may have other members, so here they are told apart by number.
    """

    terms: tuple[Term, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AdmittedMixture) and self.lora_int_id == other.lora_int_id

    def __hash__(self) -> int:
        return int(self.lora_int_id)


def is_mixture(request: LoRARequest | None) -> bool:
    """Tell a mixture from an adapter, before or after it was admitted."""
    return isinstance(request, AdmittedMixture) or (
        request is not None and request.lora_path.startswith(SCHEME)
    )


def members_of(request: LoRARequest | None) -> Members:
    """Return what takes slots for a request: names that stay, folders, numbers of vLLM's own."""
    if request is None:
        return frozenset()
    if isinstance(request, AdmittedMixture):
        return frozenset(
            term.name if term.folder is None else (term.name, term.folder) for term in request.terms
        )
    return frozenset({request.lora_int_id})


def admit(request: LoRARequest | None, budget: SlotBudget) -> LoRARequest | None:
    """Check an adapter or a mixture of a request; a mixture gets its number and its key.

    Raises:
        ValueError: an adapter is not loaded, there are too few slots, or a number is out of range.
            The message says what to do.
    """
    if request is None or isinstance(request, AdmittedMixture):
        return request
    if not is_mixture(request):
        if request.lora_int_id >= FIRST_MIXTURE:
            raise ValueError(
                f"lora_int_id {request.lora_int_id} of {request.lora_name!r} is too large: numbers "
                f"from {FIRST_MIXTURE} are used for mixtures"
            )
        return request
    terms, cache_key = decode(request.lora_path)
    absent = [t.name for t in terms if t.folder is None and t.name not in budget.resident]
    if absent:
        raise ValueError(
            f"adapter {absent[0]!r} is not loaded: call `load_adapter` first, or give its folder"
        )
    if cache_key is None:
        stamps = {t.name: t.folder or budget.resident[t.name] for t in terms}
        name, path = canonical_text(terms, stamps), f"{SCHEME}text"
    else:
        name, path = cache_key, f"{SCHEME}key"
    admitted = AdmittedMixture(name, _number(name, path, terms), path, terms=terms)
    if not budget.fits(members_of(admitted)):
        raise ValueError(
            f"the mixture needs {len(terms)} slots, and {len(budget.resident)} of {budget.slots} "
            "(max_loras) are taken by adapters that were loaded to stay"
        )
    return admitted


_numbers = count()


@lru_cache(maxsize=_MIXTURES_KNOWN)
def _number(name: str, path: str, terms: tuple[Term, ...]) -> int:
    del name, path, terms  # only the key of the cache
    return FIRST_MIXTURE + next(_numbers) % (FIRST_MEMBER - FIRST_MIXTURE)


def change_engine() -> None:
    """Wrap the methods of vLLM's scheduler and engine core, once in a process."""
    wrap(Scheduler, "__init__", _init_scheduler)
    wrap(Scheduler, "_handle_blocked_waiting_request", _is_ready)
    wrap(EngineCore, "preprocess_add_request", _preprocess)
    wrap(EngineCore, "add_request", _add_request)
    wrap(EngineCore, "collective_rpc", _collective_rpc)


def wrap(owner: type, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a method by ``wrapper``, which gets the method it replaces before its arguments."""
    original = getattr(owner, name)

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(owner, name, wrapped)


def _init_scheduler(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
    original(self, *args, **kwargs)
    self.mixture_budget = None
    if self.lora_config is not None:
        self.mixture_budget = SlotBudget(self.lora_config.max_loras, members_of)
        self.lora_config = None  # the scheduler uses it for nothing but its own count


def _is_ready(original: Any, self: Any, request: Any) -> bool:
    if not original(self, request):
        return False
    if self.mixture_budget is None or request.lora_request is None:
        return True
    return bool(
        self.mixture_budget.fits_now(
            self.current_step, self.running, members_of(request.lora_request)
        )
    )


def _preprocess(original: Any, self: Any, request: Any) -> Any:
    if request.lora_request is not None:
        budget = _budget(self)
        if request.pooling_params is not None and is_mixture(request.lora_request):
            raise ValueError("mixtures generate text; a pooling request takes one adapter")
        request.lora_request = admit(request.lora_request, budget)
    return original(self, request)


def _add_request(original: Any, self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    # It was checked when it was read, in another thread: an adapter may have been unloaded since.
    if isinstance(request.lora_request, AdmittedMixture):
        resident = _budget(self).resident
        if any(t.folder is None and t.name not in resident for t in request.lora_request.terms):
            request.abort_immediately = True
    return original(self, request, *args, **kwargs)


def _collective_rpc(
    original: Any,
    self: Any,
    method: Any,
    timeout: float | None = None,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
) -> Any:
    if method not in ("load_adapter", "unload_adapter"):
        return original(self, method, timeout, args, kwargs)
    budget = _budget(self)
    name = args[0] if args else (kwargs or {})["name"]
    scheduler = self.scheduler
    running = {id(request) for request in scheduler.running}
    live = list(_live(scheduler))
    if method == "load_adapter":
        budget.check_load(
            name,
            [members_of(request.lora_request) for request in scheduler.running],
            [members_of(r.lora_request) for r in live if id(r) not in running],
        )
        try:
            result = original(self, method, timeout, args, kwargs)
        except BaseException:
            with suppress(Exception):  # some ranks may have it
                original(self, "unload_adapter", timeout, (name,), None)
            raise
        budget.note_load(name)
        return result
    budget.check_unload(name, (members_of(request.lora_request) for request in live))
    budget.note_unload(name)
    return original(self, method, timeout, args, kwargs)


def _live(scheduler: Any) -> Iterator[Any]:
    return (request for request in scheduler.requests.values() if not request.is_finished())


def _budget(core: Any) -> SlotBudget:
    budget = getattr(core.scheduler, "mixture_budget", None)
    if not isinstance(budget, SlotBudget):
        raise ValueError(
            "this scheduler does not count the adapters of mixtures: start vLLM with enable_lora, "
            "and with a scheduler class that extends vLLM's own, if any"
        )
    return budget
