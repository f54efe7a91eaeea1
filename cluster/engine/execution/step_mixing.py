"""Weights of a step's (token, adapter) pairs that change from layer to layer.

Worked out once for the rows of a step, like its ``LoraBatch``, and kept as long. At the entry of
every decoder layer the weights of all its sites are set: known ones are copied in, gates are asked
for all their rows together, routers for each new prompt. A gate that answers by site is asked
later, for each linear when its input is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cluster.domain.decision import SiteWeights
from cluster.engine.mixing import LAYER_MODULES
from cluster.engine.mixing_parts import MixingGate, PrefillRouter
from kernels.lora.torch_ops import AnyLoraBatch

if TYPE_CHECKING:
    from cluster.domain.ids import RequestId
    from cluster.engine.mixing import Mixing
    from cluster.engine.model.step_context import StepContext
    from kernels.lora.sites import FusedSite

_COLUMNS = len(LAYER_MODULES) + 1  # the last is of all other linears


class SiteMap:
    """Maps the linears of a model's sites to their places in its decoder layers."""

    def __init__(self, sites: Sequence[FusedSite], num_layers: int, device: torch.device) -> None:
        self.num_layers = num_layers
        self.paths: dict[str, tuple[int, int]] = {}  # module path -> (layer, column)
        self.layers: list[int] = []  # of each site
        self.modules: list[tuple[int, ...]] = []  # columns of each site's slices
        for site in sites:
            columns = []
            for path, _ in site.out_slices:
                layer = next(int(part) for part in path.split(".") if part.isdecimal())
                name = path.rpartition(".")[2]
                known = name in LAYER_MODULES
                columns.append(LAYER_MODULES.index(name) if known else len(LAYER_MODULES))
                if known:
                    self.paths[path] = (layer, columns[-1])
            self.layers.append(layer)
            self.modules.append(tuple(columns))
        self.columns = [torch.tensor(columns, device=device) for columns in self.modules]

    def table(self, weights: SiteWeights) -> torch.Tensor:
        """Return [L, adapters, columns] of a decision's weights; 1 where it names no site.

        Raises:
            KeyError: it names a site that the model does not have.
        """
        table = torch.ones(self.num_layers, len(weights.weights), _COLUMNS)
        places = torch.tensor([self.paths[site] for site in weights.sites])
        table[places[:, 0], :, places[:, 1]] = torch.tensor(weights.weights).T
        return table

    def site_weights(self, masks: torch.Tensor) -> SiteWeights:
        """Return a router's weights [L, 7] for its one adapter, as a decision holds them."""
        values = masks.tolist()
        return SiteWeights(
            tuple(self.paths), (tuple(values[layer][at] for layer, at in self.paths.values()),)
        )


@dataclass(frozen=True, slots=True)
class MixedRows:
    """One sequence's rows in a step."""

    request_id: RequestId
    mixing: Mixing | None
    first: int  # its first token in the step
    count: int  # its tokens in the step
    prompt: int  # of which, from the first, are its prompt's
    explain: bool = False  # its gate's weights are wanted


@dataclass(slots=True)
class _Gated:
    """The rows of one gate."""

    gate: MixingGate
    tokens: torch.Tensor | None  # [rows] int64; None: every token of the step, in order
    pairs: torch.Tensor  # [P] int64
    places: torch.Tensor  # [P] int64: of each pair in the gate's answer [rows, k], flat
    scale: torch.Tensor  # [P] fp32: the mixture's weights
    explained: tuple[RequestId, ...]  # sequences that want to know
    last: torch.Tensor  # [explained] int64: each one's last row
    answers_by_layer: list[torch.Tensor] = field(
        default_factory=list
    )  # [explained, k] of each layer

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.tokens is None else x.index_select(0, self.tokens)

    def pair_weights(self, answer: torch.Tensor) -> torch.Tensor:
        """Return the weights of the gate's pairs, [P] fp32."""
        return answer.reshape(-1).index_select(0, self.places).mul_(self.scale)


@dataclass(slots=True)
class _Routed:
    """The rows of a prompt whose router is asked."""

    request_id: RequestId
    router: PrefillRouter
    first: int
    prompt: int
    pairs: torch.Tensor  # [P] int64
    scale: torch.Tensor  # [P, 1] fp32
    masks: list[torch.Tensor] = field(default_factory=list)  # [7] of each layer that has run


class StepMixing:
    """The changing weights of one batch of pairs."""

    def __init__(
        self,
        batch: AnyLoraBatch,
        rows: Sequence[MixedRows],
        gates: Mapping[str, MixingGate],
        routers: Mapping[str, PrefillRouter],
        sites: SiteMap,
    ) -> None:
        """Take the rows of a step, all of them in order; those without a ``mixing`` keep their
        weights."""
        self._sites = sites
        self._layer = 0
        device = batch.weights.device
        base = batch.weights.float().cpu()
        owners = _owners(batch, rows)
        self._gated = _gated(batch, rows, owners, base, gates, device)
        self._routed: list[_Routed] = []
        known_pairs: list[torch.Tensor] = []
        known: list[torch.Tensor] = []
        for index, row in enumerate(rows):
            if row.mixing is None:
                continue
            pairs = (owners == index).nonzero().squeeze(1)
            scale = base[pairs].unsqueeze(1)
            if row.mixing.is_pending:
                router = routers[row.mixing.router]
                self._routed.append(
                    _Routed(
                        row.request_id,
                        router,
                        row.first,
                        row.prompt,
                        pairs.to(device),
                        scale.to(device),
                    )
                )
            elif row.mixing.site_weights is not None:
                table = sites.table(row.mixing.site_weights)
                known_pairs.append(pairs)
                known.append(table.index_select(1, batch.pair_terms[pairs]) * scale)
        dtype = batch.weights.dtype
        self._known: torch.Tensor | None = None  # [L, P, columns]
        if known:
            self._known_pairs = torch.cat(known_pairs).to(device)
            self._known = torch.cat(known, dim=1).to(device, dtype)
        by_site = any(gated.gate.resolution == "site" for gated in self._gated)
        self._per_module = bool(known or self._routed or by_site)
        # What gates and routers have no part in is the same in every step.
        self._frozen: dict[int, torch.Tensor] | None = None  # by site
        if not (self._gated or self._routed):
            self._frozen = {}
        self._weights = batch.weights.clone()
        if self._per_module:
            self._weights = self._weights.unsqueeze(1).repeat(1, _COLUMNS)

    @property
    def changes(self) -> bool:
        """True if ``enter`` has anything to set."""
        return self._frozen is None

    def view(self, site: int) -> torch.Tensor | None:
        """Return the memory that holds a site's weights from ``enter`` of its layer on.

        Returns:
            [P] or [P, slices], at the same address in every step; None if they are not known
            before the site's input is there.
        """
        if self._routed or any(gated.gate.resolution == "site" for gated in self._gated):
            return None
        if self._frozen is not None or not self._per_module:
            return self.weights(site, self._weights)
        columns = self._sites.modules[site]
        first = columns[0]
        if columns != tuple(range(first, first + len(columns))):
            return None
        return self._weights.narrow(1, first, len(columns))

    def enter(self, layer: int, x: torch.Tensor) -> None:
        """Set the weights of a decoder layer's sites, from the rows ``x`` [T, d] that enter it."""
        if self._frozen is not None:
            return
        self._layer = layer
        weights = self._weights
        if self._known is not None:
            weights[self._known_pairs] = self._known[layer]
        for gated in self._gated:
            if gated.gate.resolution == "layer":
                answer = gated.gate.weights(layer, None, gated.rows(x))
                if gated.explained:
                    gated.answers_by_layer.append(answer.index_select(0, gated.last))
                found = gated.pair_weights(answer).to(weights.dtype)
                weights[gated.pairs] = found.unsqueeze(1) if self._per_module else found
        for routed in self._routed:
            prompt = x[routed.first : routed.first + routed.prompt]
            mask = routed.router.masks(layer, prompt)
            routed.masks.append(mask)
            columns = torch.cat((mask, mask.new_ones(_COLUMNS - len(mask))))
            weights[routed.pairs] = (columns * routed.scale).to(weights.dtype)

    def weights(self, site: int, x: torch.Tensor) -> torch.Tensor:
        """Return the weights for ``add_lora`` at a site whose input is ``x`` [T, in]: [P] or [P,
        slices]."""
        if not self._per_module:
            return self._weights
        if self._frozen is not None:
            frozen = self._frozen.get(site)
            return self._freeze(site) if frozen is None else frozen
        found = self._weights.index_select(1, self._sites.columns[site])
        for gated in self._gated:
            if gated.gate.resolution == "site":
                rows = gated.rows(x)
                for place, module in enumerate(self._sites.modules[site]):
                    if module < len(LAYER_MODULES):
                        answer = gated.gate.weights(self._layer, module, rows)
                        found[gated.pairs, place] = gated.pair_weights(answer).to(found.dtype)
        return found

    def _freeze(self, site: int) -> torch.Tensor:
        assert self._known is not None
        assert self._frozen is not None
        self._weights[self._known_pairs] = self._known[self._sites.layers[site]]
        found = self._weights.index_select(1, self._sites.columns[site])
        self._frozen[site] = found
        return found

    def take_explained(self) -> dict[RequestId, tuple[tuple[float, ...], ...]]:
        """Return [layers][adapters] of the last row of each sequence that wants to know, in this
        step."""
        explained: dict[RequestId, tuple[tuple[float, ...], ...]] = {}
        for gated in self._gated:
            if gated.answers_by_layer:
                rows = torch.stack(gated.answers_by_layer, dim=1).tolist()  # [explained][layers][k]
                explained.update(zip(gated.explained, map(_tuples, rows), strict=True))
                gated.answers_by_layer = []
        return explained

    def take_decided(self) -> dict[RequestId, SiteWeights]:
        """Return what routers have decided since it was last asked; ends their part."""
        decided = {
            routed.request_id: self._sites.site_weights(torch.stack(routed.masks).cpu())
            for routed in self._routed
        }
        self._routed = []
        return decided


def _tuples(values: Iterable[Iterable[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values)


def enter_layers(layers: nn.ModuleList, context: StepContext) -> None:
    """Let the modules' own forward set the weights at the entry of each decoder layer."""

    def hook(index: int) -> Callable[..., None]:
        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            if context.mixing is not None:
                hidden = args[0] if args else kwargs["hidden_states"]
                context.mixing.enter(index, hidden.flatten(0, -2))

        return enter

    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(hook(index), with_kwargs=True)


def _owners(batch: AnyLoraBatch, rows: Sequence[MixedRows]) -> torch.Tensor:
    """Return [pairs]: the index in ``rows`` of each pair's sequence."""
    ends = torch.tensor([row.first + row.count for row in rows])
    return torch.searchsorted(ends, batch.pair_tokens, right=True)


def _gated(
    batch: AnyLoraBatch,
    rows: Sequence[MixedRows],
    owners: torch.Tensor,
    base: torch.Tensor,
    gates: Mapping[str, MixingGate],
    device: torch.device,
) -> list[_Gated]:
    by_gate: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if row.mixing is not None and row.mixing.gate:
            by_gate.setdefault(row.mixing.gate, []).append(index)
    found = []
    for name, indices in by_gate.items():
        gate = gates[name]
        tokens = [t for i in indices for t in range(rows[i].first, rows[i].first + rows[i].count)]
        row_of = torch.zeros(batch.tokens, dtype=torch.long)
        row_of[tokens] = torch.arange(len(tokens))
        pairs = torch.isin(owners, torch.tensor(indices)).nonzero().squeeze(1)
        places = row_of[batch.pair_tokens[pairs]] * gate.num_adapters + batch.pair_terms[pairs]
        every = len(tokens) == batch.tokens
        asking = [rows[i] for i in indices if rows[i].explain]
        last = [int(row_of[row.first + row.count - 1]) for row in asking]
        found.append(
            _Gated(
                gate,
                None if every else torch.tensor(tokens, device=device),
                pairs.to(device),
                places.to(device),
                base[pairs].to(device),
                tuple(row.request_id for row in asking),
                torch.tensor(last, dtype=torch.long, device=device),
            )
        )
    return found
