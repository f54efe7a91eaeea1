"""Gates and routers that decide adapters' weights inside the model: per token, or in prefill.

Both are called in the step thread, under inference mode. A `PrefillRouter`, and a `MixingGate` that
answers by layer, see rows of the residual stream as it enters a decoder layer, before the layer's
input norm; a gate that answers by site sees rows of each linear's own input. Neither knows what the
other rows of the step are: a row's weights depend on its own request alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, Self

if TYPE_CHECKING:
    import torch


class MixingGate(Protocol):
    """Weighs the adapters of a mixture again for every token."""

    @property
    def num_adapters(self) -> int:
        """k: adapters it weighs, in an order of its own."""
        ...

    @property
    def num_layers(self) -> int:
        """Decoder layers it has weights for."""
        ...

    @property
    def hidden_size(self) -> int:
        """d: width of the residual stream, whatever the resolution."""
        ...

    @property
    def resolution(self) -> Literal["layer", "site"]:
        """The linears that a call serves: "layer", all of a decoder layer; "site", one of them."""
        ...

    def weights(self, layer: int, site: int | None, x: torch.Tensor) -> torch.Tensor:
        """Return the weights [T, k], fp32, of the T rows of the step whose requests name this gate,
        in the step's order; any finite real, 0 skips the adapter. The mixture's own weights
        multiply them.

        By site every linear in `cluster.engine.mixing.LAYER_MODULES` is asked for once in a step,
        those that no adapter touches too, and adapters at any other linear keep the mixture's
        weights. A request that asks for its gate's weights (``explain``) gets those by layer.

        Args:
            layer: index of the decoder layer.
            site: index of the linear in `LAYER_MODULES`; None if ``resolution`` is "layer".
            x: [T, d] the residual stream's rows where ``resolution`` is "layer", [T, d_in] the
                rows that the linear reads where it is "site", say [T, width of the MLP] for
                down_proj; of the model's dtype.
        """
        ...

    def to(self, device: torch.device) -> Self:
        """Return the same with its tensors on ``device``."""
        ...


class PrefillRouter(Protocol):
    """Weighs the modules of one adapter, once for each layer of a prompt."""

    @property
    def num_layers(self) -> int:
        """Decoder layers it has weights for."""
        ...

    @property
    def hidden_size(self) -> int:
        """d: width of the residual stream."""
        ...

    def masks(self, layer: int, prompt_hidden: torch.Tensor) -> torch.Tensor:
        """Return the weights [7], fp32, of the layer's modules in the order of `LAYER_MODULES`; 0
        skips one.

        Args:
            layer: index of the decoder layer.
            prompt_hidden: [n_p, d], the whole prompt's rows, of the model's dtype.
        """
        ...

    def to(self, device: torch.device) -> Self:
        """Return the same with its tensors on ``device``."""
        ...


@dataclass(slots=True)
class MixingParts:
    """The gates and routers that sequences may name, on the model's device.

    Adding to them is safe at any time; so is removing one that no live sequence names.
    """

    gates: dict[str, MixingGate] = field(default_factory=dict)
    routers: dict[str, PrefillRouter] = field(default_factory=dict)
    device: torch.device | None = None  # of the model; None: not known yet

    def add_part(
        self, name: str, *, gate: MixingGate | None = None, router: PrefillRouter | None = None
    ) -> None:
        """Let sequences name a gate or a router."""
        if gate is not None:
            self.gates[name] = gate if self.device is None else gate.to(self.device)
        if router is not None:
            self.routers[name] = router if self.device is None else router.to(self.device)

    def remove_part(self, name: str) -> None:
        """Forget a gate or router; does nothing if the name is not known."""
        self.gates.pop(name, None)
        self.routers.pop(name, None)

    def move_to(self, device: torch.device) -> None:
        """Bring all of them, and those that come, to ``device``."""
        self.device = device
        self.gates.update({name: gate.to(device) for name, gate in self.gates.items()})
        self.routers.update({name: router.to(device) for name, router in self.routers.items()})
