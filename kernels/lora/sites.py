"""Fused sites: linears that read the same input, seen as one, and how an adapter lies at them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ALIGNMENT = 16
"""Elements to which every block inside an adapter's row is aligned: 64 bytes in fp32."""


@dataclass(frozen=True, slots=True)
class FusedSite:
    """Linears with one shared input whose outputs lie side by side in one tensor.

    q/k/v of a layer form one site, gate/up another; o and down are sites of one slice each.
    """

    name: str
    in_features: int
    out_slices: tuple[tuple[str, int], ...]  # (module path, width), in column order

    out_features: int = field(init=False)  # columns of the site's output

    def __post_init__(self) -> None:
        width = sum(width for _, width in self.out_slices)
        object.__setattr__(self, "out_features", width)


@dataclass(frozen=True, slots=True)
class SliceLayout:
    """The place of one module's B, and what it reads and writes."""

    index: int  # among the site's slices
    column: int  # first output column
    width: int  # output columns
    rank_start: int  # first row of the site's stacked A, first column of its shrunk activations
    rank: int
    offset: int  # elements from the row's start to B [rank, width]


@dataclass(frozen=True, slots=True)
class SiteLayout:
    """The places of one site's tensors in an adapter's flat row.

    A of all present slices is stacked as [rank, in_features] at ``offset``; each B follows,
    transposed to [rank, width] so that expanding reads it in order.
    """

    in_features: int
    rank: int  # sum over slices; 0: the adapter does not touch this site
    offset: int
    slices: tuple[SliceLayout, ...]  # present ones only


@dataclass(frozen=True, slots=True)
class AdapterLayout:
    """The flat row of every adapter with the same ranks at the same modules."""

    sites: tuple[SiteLayout, ...]
    numel: int  # elements of the row, padding for alignment included
    max_rank: int

    @property
    def largest_site_rank(self) -> int:
        """Largest sum of ranks at one site."""
        return max((site.rank for site in self.sites), default=0)


def module_ranks(
    sites: Sequence[FusedSite], ranks: Mapping[str, int]
) -> tuple[tuple[int, ...], ...]:
    """Return ranks per site and slice, 0 where the module is absent: the signature of a layout."""
    return tuple(tuple(ranks.get(path, 0) for path, _ in site.out_slices) for site in sites)


def adapter_layout(sites: Sequence[FusedSite], signature: Sequence[Sequence[int]]) -> AdapterLayout:
    """Lay out the row for a signature of ``module_ranks``."""
    offset = 0
    layouts = []
    for site, ranks in zip(sites, signature, strict=True):
        start = offset
        offset = _aligned(offset + sum(ranks) * site.in_features)
        slices = []
        column = rank_start = 0
        for index, ((_, width), rank) in enumerate(zip(site.out_slices, ranks, strict=True)):
            if rank:
                slices.append(SliceLayout(index, column, width, rank_start, rank, offset))
                offset = _aligned(offset + rank * width)
                rank_start += rank
            column += width
        layouts.append(SiteLayout(site.in_features, rank_start, start, tuple(slices)))
    largest = max((rank for ranks in signature for rank in ranks), default=0)
    return AdapterLayout(tuple(layouts), offset, largest)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
