"""Projections of a decoder layer with LoRA: products that read one input are fused into one.

q, k and v (gate and up) of one layer read the same input. Their weights are concatenated, the first
of them that is called computes the whole product and adds the whole low-rank part, and the others
hand out their slice of it. Whether it is the same input is decided by identity of the tensor; a
model that calls them with different inputs gets the right answer too, at the price of computing the
fused product again.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from cluster.engine.model.products import MakeProduct, Product, make_product
from cluster.engine.model.step_context import StepContext
from kernels.lora.sites import FusedSite
from kernels.lora.torch_ops import add_lora

FUSED_GROUPS: tuple[tuple[str, ...], ...] = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
)
"""Names of sibling linears that read the same input, in the order of the fused output."""


class ProjectionGroup:
    """The product shared by the members of one site, for the input seen last."""

    __slots__ = ("_context", "_input", "_left", "_parts", "product", "site", "sizes")

    def __init__(self, site: int, sizes: list[int], product: Product, context: StepContext) -> None:
        self.site = site  # index in the model's sites
        self.sizes = sizes  # output widths of the members
        self.product = product
        self._context = context
        self._input: torch.Tensor | None = None
        self._parts: list[torch.Tensor | None] = []
        self._left = 0

    def take(self, x: torch.Tensor, member: int) -> torch.Tensor:
        """Slice ``member`` of the fused output for ``x`` [..., in]; each is given out once."""
        if x is not self._input or self._parts[member] is None:
            y = self.compute(x)
            self._parts = list(torch.split_with_sizes(y, self.sizes, -1))
            self._left = len(self.sizes)
            self._input = x
        part = self._parts[member]
        self._parts[member] = None
        self._left -= 1
        if self._left == 0:
            self._input = None
        assert part is not None
        return part

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        """Return the whole fused output [..., sum of sizes], with the step's adapters."""
        y = self.product(x)
        context = self._context
        if context.lora is not None:
            assert context.bank is not None
            rows, out = (x, y) if x.dim() == 2 else (x.flatten(0, -2), y.flatten(0, -2))
            weights = None
            if context.mixing is not None:
                weights = context.mixing.weights(self.site, rows)
            add_lora(out, rows, context.bank, self.site, context.lora, weights)
        return y


class GroupMember(nn.Module):
    """Stands where one linear of a fused group stood."""

    def __init__(self, group: ProjectionGroup, member: int) -> None:
        super().__init__()
        self.group = group
        self.member = member

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.group.take(x, self.member)

    __call__ = forward  # no hooks: a third of a small product's time otherwise


class SingleProjection(nn.Module):
    """Stands where a linear with no siblings stood."""

    def __init__(self, group: ProjectionGroup) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.group.compute(x)

    __call__ = forward


class HeadProjection(nn.Module):
    """Stands where the output head stood.

    It is given the rows whose logits are wanted alone, so its adapters are a batch of their own.
    Gates and a prompt's router weigh decoder layers: here each adapter has its mixture's weight.
    """

    def __init__(
        self, linear: nn.Linear, site: int, context: StepContext, make: MakeProduct = make_product
    ) -> None:
        super().__init__()
        self.product = make(linear.weight, linear.bias)
        self.site = site  # index in the model's sites
        self._context = context

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.product(x)
        context = self._context
        if context.head_input is not None:
            context.head_input[: x.shape[0]].copy_(x)
        if context.head is not None:
            assert context.bank is not None
            rows, out = (x, y) if x.dim() == 2 else (x.flatten(0, -2), y.flatten(0, -2))
            add_lora(out, rows, context.bank, self.site, context.head)
        return y


def replace_projections(
    model: nn.Module,
    layers: nn.ModuleList,
    context: StepContext,
    make: MakeProduct = make_product,
) -> tuple[FusedSite, ...]:
    """Replaces every linear of the decoder layers; returns the sites, in order of definition.

    ``make`` is what computes a site's product.

    Site names are the path of the parent and the members, ``model.layers.0.mlp.gate_proj+up_proj``;
    slices of a site are named by the path of each replaced module.
    """
    paths = {module: path for path, module in model.named_modules()}
    sites: list[FusedSite] = []
    for layer in layers:
        for parent in list(layer.modules()):
            for names in _linear_groups(parent):
                linears = [_linear(parent, name) for name in names]
                prefix = paths[parent]
                widths = [linear.out_features for linear in linears]
                product = _fused_product(linears, make)
                group = ProjectionGroup(len(sites), widths, product, context)
                sites.append(
                    FusedSite(
                        name=f"{prefix}.{'+'.join(names)}",
                        in_features=linears[0].in_features,
                        out_slices=tuple(
                            (f"{prefix}.{name}", width)
                            for name, width in zip(names, widths, strict=True)
                        ),
                    )
                )
                if len(names) == 1:
                    setattr(parent, names[0], SingleProjection(group))
                    continue
                for member, name in enumerate(names):
                    setattr(parent, name, GroupMember(group, member))
    return tuple(sites)


def _linear_groups(parent: nn.Module) -> Iterator[tuple[str, ...]]:
    """Yield the names of the child linears of ``parent``, grouped by the input that they share."""
    left = [name for name, child in parent.named_children() if type(child) is nn.Linear]
    while left:
        name = left[0]
        group = next((names for names in FUSED_GROUPS if name in names), (name,))
        if not set(group) <= set(left) or len({_linear(parent, n).in_features for n in group}) > 1:
            group = (name,)
        yield group
        left = [name for name in left if name not in group]


def _linear(parent: nn.Module, name: str) -> nn.Linear:
    child = parent.get_submodule(name)
    assert isinstance(child, nn.Linear)
    return child


def _fused_product(linears: list[nn.Linear], make: MakeProduct) -> Product:
    weights: list[torch.Tensor] = [linear.weight for linear in linears]
    weight = torch.cat(weights)
    biases = [linear.bias for linear in linears]
    if all(bias is None for bias in biases):
        return make(weight, None)
    filled: list[torch.Tensor] = [
        linear.weight.new_zeros(linear.out_features) if bias is None else bias
        for linear, bias in zip(linears, biases, strict=True)
    ]
    return make(weight, torch.cat(filled))
