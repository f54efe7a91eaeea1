"""The fused multi-LoRA operator: in torch, for CPU and GPU, or handed to the Triton kernels.

``y[t] += sum_k w[t,k] * scale[slot_k] * B[slot_k] A[slot_k] x[t]``

Each adapter of the step is read once per site. A token's result is the sum of its own adapters'
products only: no other token's value, finite or not, enters it.
"""

import torch

from kernels.errors import StaleBatchError
from kernels.lora.bank import AdapterBank
from kernels.lora.lane import ExpandView, SiteView
from kernels.lora.lora_batch import LoraBatch
from kernels.lora.lora_native import add_native
from kernels.lora.lora_triton_batch import TritonLoraBatch
from kernels.lora.lora_triton_dispatch import add_lora_operator
from kernels.lora.runs import DenseRun, GroupedRun
from kernels.threads import one_thread

AnyLoraBatch = LoraBatch | TritonLoraBatch
"""The batches that `add_lora` takes; the class selects the kernels."""


def add_lora(
    y: torch.Tensor,
    x: torch.Tensor,
    bank: AdapterBank,
    site_index: int,
    batch: AnyLoraBatch,
    weights: torch.Tensor | None = None,
) -> None:
    """Add the batch's adapters to one fused site's output, in place.

    Args:
        y: [T, out_features of the site], output of the base linears, of the bank's dtype.
        x: [T, in_features of the site], their input, of the bank's dtype.
        bank: the bank the batch was built on.
        site_index: index into ``bank.sites``.
        batch: from ``LoraBatch.build`` with the same T, or updated for this step.
        weights: in place of the batch's: [pairs], or [pairs, slices of the site] where single
            modules are weighted or, with 0, left out; of the bank's dtype, or of any with a
            ``TritonLoraBatch``.

    Raises:
        ValueError: T, widths, weights or dtype do not fit.
        StaleBatchError: a later batch has reorganised what this one reads.
    """
    if isinstance(batch, TritonLoraBatch):
        add_lora_operator()(y, x, site_index, batch, weights)
        return
    site = bank.sites[site_index]
    tokens = batch.tokens
    if x.shape != (tokens, site.in_features) or y.shape != (tokens, site.out_features):
        raise ValueError(
            f"{site.name}: x {tuple(x.shape)} and y {tuple(y.shape)} do not fit "
            f"[{batch.tokens}, {site.in_features}] and [{batch.tokens}, {site.out_features}]"
        )
    if x.dtype != bank.dtype or y.dtype != bank.dtype:
        raise ValueError(f"{site.name}: x {x.dtype} and y {y.dtype}, the bank has {bank.dtype}")
    if weights is None:
        weights = batch.weights
    elif weights.dtype != bank.dtype or weights.shape not in (
        batch.weights.shape,
        (*batch.weights.shape, len(site.out_slices)),
    ):
        raise ValueError(
            f"{site.name}: weights {tuple(weights.shape)} {weights.dtype} do not fit "
            f"{batch.weights.shape[0]} pairs and {len(site.out_slices)} slices of {bank.dtype}"
        )
    if batch.native is not None:
        add_native(y, x, batch.native, site_index, weights)
        return
    if batch.grouped:
        with one_thread(y.device):
            for grouped in batch.grouped:
                view = _view(grouped, site_index)
                if view is not None:
                    _add_grouped(y, x, grouped, view, weights[grouped.first : grouped.last])
    for dense in batch.dense:
        view = _view(dense, site_index)
        if view is not None:
            _add_dense(y, x, dense, view, weights[dense.first : dense.last])


def _view(run: DenseRun | GroupedRun, site_index: int) -> SiteView | None:
    if not run.stack.valid:
        raise StaleBatchError("the batch was used after a later one had been built on its bank")
    return run.stack.site(site_index)


def _add_dense(
    y: torch.Tensor, x: torch.Tensor, run: DenseRun, view: SiteView, weights: torch.Tensor
) -> None:
    tokens = run.tokens
    rows = x[run.start : run.stop] if tokens is None else x.index_select(0, tokens)
    shrunk = _weigh(torch.mm(rows, view.a_t.to(rows.dtype)), view, weights)
    if tokens is None:
        target = y[run.start : run.stop]
        for part in view.expands:
            _columns(target, part).addmm_(_ranks(shrunk, part), part.b.to(y.dtype))
        return
    for part in view.expands:
        _columns(y, part).index_add_(0, tokens, torch.mm(_ranks(shrunk, part), part.b.to(y.dtype)))


def _add_grouped(
    y: torch.Tensor,
    x: torch.Tensor,
    run: GroupedRun,
    view: SiteView,
    weights: torch.Tensor,
) -> None:
    n, m = run.stack.size, run.width
    grid = weights.new_zeros((n * m, *weights.shape[1:])).index_copy_(0, run.places, weights)
    gathered = x.index_select(0, run.grid).view(n, m, x.shape[1])
    shrunk = torch.bmm(gathered, view.a_t.to(x.dtype))
    shrunk = _weigh(shrunk.view(n * m, -1), view, grid).view(n, m, -1)
    target = y[run.start : run.stop] if run.tokens is None else y
    for part in view.expands:
        expanded = torch.bmm(_ranks(shrunk, part), part.b.to(y.dtype)).view(n * m, part.width)
        if run.offsets is None:
            expanded = expanded.index_select(0, run.places)
        else:
            expanded = torch.embedding_bag(expanded, run.places, run.offsets)[0]
        if run.tokens is None:
            _columns(target, part).add_(expanded)
        else:
            _columns(target, part).index_add_(0, run.tokens, expanded)


def _weigh(shrunk: torch.Tensor, view: SiteView, weights: torch.Tensor) -> torch.Tensor:
    """Return ``shrunk`` [pairs, ranks] times ``weights`` [pairs] or [pairs, slices], in place."""
    if weights.dim() == 1:
        return shrunk.mul_(weights[:, None])
    for part in view.expands:
        _ranks(shrunk, part).mul_(weights[:, part.index, None])
    return shrunk


def _columns(y: torch.Tensor, part: ExpandView) -> torch.Tensor:
    return y if part.width == y.shape[-1] else y.narrow(-1, part.column, part.width)


def _ranks(shrunk: torch.Tensor, part: ExpandView) -> torch.Tensor:
    if part.rank == shrunk.shape[-1]:
        return shrunk
    return shrunk.narrow(-1, part.rank_start, part.rank)
