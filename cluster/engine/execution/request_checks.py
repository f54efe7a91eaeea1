"""Checks that a request's adapters and mixing can be computed, before it is queued."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from cluster.domain.ids import Slot
from cluster.engine.mixing import Mixing
from cluster.engine.mixing_parts import MixingParts
from cluster.errors import EngineError
from kernels.lora.bank import AdapterBank


class RequestChecks:
    """Knows what one model can apply; callable from any thread.

    Args:
        bank: its adapters.
        parts: its gates and routers.
        site_paths: its linears.
        num_layers: decoder layers that it has.
        hidden_size: width of its residual stream.
    """

    def __init__(
        self,
        bank: AdapterBank,
        parts: MixingParts,
        site_paths: Collection[str],
        *,
        num_layers: int,
        hidden_size: int,
    ) -> None:
        self._bank = bank
        self._parts = parts
        self._site_paths = site_paths
        self._shape = num_layers, hidden_size

    def check_adapters(self, adapters: Sequence[tuple[Slot, float]]) -> None:
        """Raise EngineError for an empty slot or a weight that is not finite."""
        for slot, weight in adapters:
            if not math.isfinite(weight):
                raise EngineError(f"adapter weight {weight} is not finite")
            try:
                self._bank.entry(slot)
            except ValueError as error:
                raise EngineError(str(error)) from error

    def check_mixing(self, num_adapters: int, mixing: Mixing) -> None:
        """Raise EngineError for an unknown part, or one that does not fit model or mixture."""
        for name, parts in (
            (mixing.gate, self._parts.gates),
            (mixing.router, self._parts.routers),
        ):
            if not name:
                continue
            part = parts.get(name)
            if part is None:
                raise EngineError(f"no gate or router {name!r} is loaded; load it first")
            found = part.num_layers, part.hidden_size
            if found != self._shape:
                raise EngineError(
                    f"{name!r} is for {found[0]} layers of width {found[1]}, "
                    f"the model has {self._shape[0]} of {self._shape[1]}"
                )
        gate = self._parts.gates.get(mixing.gate)
        wanted = 1 if mixing.router else num_adapters if gate is None else gate.num_adapters
        if num_adapters != wanted:
            raise EngineError(f"{num_adapters} adapters for a part that weighs {wanted}")
        if mixing.site_weights is not None:
            if len(mixing.site_weights.weights) != num_adapters:
                raise EngineError(
                    f"weights of {len(mixing.site_weights.weights)} adapters for {num_adapters}"
                )
            unknown = [s for s in mixing.site_weights.sites if s not in self._site_paths]
            if unknown:
                raise EngineError(f"the model has no linear {unknown[0]}")
