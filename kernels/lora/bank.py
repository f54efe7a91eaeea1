"""The adapter bank: device storage behind slots, by true rank."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from kernels.errors import BankIntegrityError
from kernels.lora.lane import Lane
from kernels.lora.packed import PackedAdapter, Signature, pack
from kernels.lora.sites import AdapterLayout, FusedSite, adapter_layout, module_ranks
from kernels.upload import Upload


@dataclass(frozen=True, slots=True)
class BankEntry:
    """The place of a slot's adapter."""

    lane: Lane
    position: int


class AdapterBank:
    """Adapters in slots, ready for ``add_lora``.

    Every adapter is one contiguous row: at each fused site the stacked A of its slices, then each
    slice's B with the adapter's scaling folded in. Adapters with the same ranks at the same modules
    share a lane, whose rows form strided stacks for batched matmuls; an absent module takes no
    room and no time, and a small rank is never padded to a larger one. On a CPU lanes grow by
    doubling, so up to half of ``allocated_nbytes`` may be free rows, which are pages that were
    never touched; on a GPU, whose kernels find adapters by address, each has memory of its own. An
    empty lane is given back.

    ``pack``, ``place`` and ``clear`` may run in any thread while steps use other slots. The caller
    sees to it that no step uses the slot itself (leases do that).

    Args:
        sites: the model's fused sites; ``site_index`` elsewhere is an index into this.
        slots: how many adapters there can be.
        max_rank: largest rank accepted at any module.
        dtype: of the activations ``add_lora`` is given.
        device: of storage.
        storage: what adapters are held in; None: ``dtype``. bf16 under fp32 activations halves what
            a step reads of them, and rounds each value to 8 bits.
        separate: True for memory of its own for each adapter; None: on a GPU.
    """

    def __init__(
        self,
        sites: Sequence[FusedSite],
        slots: int,
        max_rank: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        storage: torch.dtype | None = None,
        separate: bool | None = None,
    ) -> None:
        self.sites = tuple(sites)
        self.slots = slots
        self.max_rank = max_rank
        self.dtype = dtype
        self.storage = dtype if storage is None else storage
        self.device = torch.device(device)
        self._modules = {
            path: (site.in_features, width)
            for site in self.sites
            for path, width in site.out_slices
        }
        self._separate = self.device.type != "cpu" if separate is None else separate
        self._upload = Upload(self.device)
        self._write_lock = threading.Lock()
        self._lock = threading.Lock()
        self._lanes: dict[Signature, Lane] = {}
        self._entries: dict[int, BankEntry] = {}

    def pack(
        self, tensors: Mapping[str, tuple[torch.Tensor, torch.Tensor, float]]
    ) -> PackedAdapter:
        """Bring an adapter into the bank's own form, which ``place`` only has to copy.

        Args:
            tensors: module path -> (A [r, in_features], B [width, r], scaling); modules that are
                absent contribute nothing. Any float dtype; converted once.

        Raises:
            ValueError: unknown module, wrong shape, rank above ``max_rank``.
        """
        for path, (lora_a, lora_b, _) in tensors.items():
            self._check_module(path, lora_a, lora_b)
        signature = module_ranks(self.sites, {p: t[0].shape[0] for p, t in tensors.items()})
        return pack(
            self.sites,
            signature,
            self._layout(signature),
            tensors,
            storage=self.storage,
        )

    def place(self, slot: int, packed: PackedAdapter) -> None:
        """Copy an adapter that this bank has packed into a slot, replacing what it held.

        Raises:
            ValueError: slot out of range.
        """
        self._check_slot(slot)
        signature = packed.signature
        with self._write_lock:
            lane = self._lanes.get(signature)
            if lane is None:
                lane = Lane(
                    packed.layout,
                    dtype=self.storage,
                    device=self.device,
                    upload=self._upload,
                    separate=self._separate,
                )
                with self._lock:
                    self._lanes[signature] = lane
            position = lane.place(packed.row, self.slots)
            with self._lock:
                replaced = self._entries.get(slot)
                self._entries[slot] = BankEntry(lane, position)
            if replaced is not None:
                self._release(replaced)

    def write(
        self, slot: int, tensors: Mapping[str, tuple[torch.Tensor, torch.Tensor, float]]
    ) -> None:
        """Call ``pack`` and ``place``; raises as they do."""
        self._check_slot(slot)
        self.place(slot, self.pack(tensors))

    def clear(self, slot: int) -> None:
        """Empty a slot; an empty one stays empty. Raises ValueError for a slot out of range."""
        self._check_slot(slot)
        with self._write_lock:
            with self._lock:
                entry = self._entries.pop(slot, None)
            if entry is not None:
                self._release(entry)

    def entry(self, slot: int) -> BankEntry:
        """Return the place of a slot's adapter. Raises ValueError for an empty slot."""
        with self._lock:
            entry = self._entries.get(slot)
        if entry is None:
            raise ValueError(f"slot {slot} holds no adapter")
        return entry

    def nbytes(self, slot: int) -> int:
        """Return the bytes of the slot's adapter as stored; 0 for an empty slot."""
        with self._lock:
            entry = self._entries.get(slot)
        return 0 if entry is None else entry.lane.row_nbytes

    def touches(self, slot: int, site_index: int) -> bool:
        """Return whether a slot's adapter has anything at a site; raises ValueError for an empty
        slot."""
        return self.entry(slot).lane.layout.sites[site_index].rank > 0

    def rank(self, slot: int) -> int:
        """Return the largest rank of the slot's adapter at any module; 0 for an empty slot."""
        with self._lock:
            entry = self._entries.get(slot)
        return 0 if entry is None else entry.lane.layout.max_rank

    def size(self, slot: int) -> tuple[int, int]:
        """Return ``nbytes`` and ``rank`` of a slot at once."""
        with self._lock:
            entry = self._entries.get(slot)
        return (0, 0) if entry is None else (entry.lane.row_nbytes, entry.lane.layout.max_rank)

    @property
    def occupied(self) -> frozenset[int]:
        """Slots that hold an adapter."""
        with self._lock:
            return frozenset(self._entries)

    @property
    def allocated_nbytes(self) -> int:
        """Bytes reserved on the device: adapters, free rows and working sets."""
        with self._lock:
            return sum(lane.allocated_nbytes for lane in self._lanes.values())

    def required_nbytes(self, ranks: Mapping[str, int]) -> int:
        """Return the bytes an adapter with these ranks (module path -> rank) will take, before it
        is written.

        Raises:
            ValueError: a module that no site has.
        """
        for path in ranks:
            self._check_path(path)
        return self._layout(module_ranks(self.sites, ranks)).numel * self.storage.itemsize

    def check_integrity(self) -> None:
        """Raise BankIntegrityError unless every position is free or held by exactly one slot."""
        with self._write_lock, self._lock:
            held: dict[int, list[int]] = {}
            for entry in self._entries.values():
                held.setdefault(id(entry.lane), []).append(entry.position)
            known = {id(lane) for lane in self._lanes.values()}
            if not known >= held.keys():
                raise BankIntegrityError(f"{len(held)} lanes hold slots, {len(known)} are known")
            for lane in self._lanes.values():
                positions = held.get(id(lane), [])
                used, free = lane.used, lane.free
                if len(positions) != len(set(positions)) or set(positions) != used:
                    raise BankIntegrityError(
                        f"slots hold {len(positions)} positions of a lane that counts {len(used)}"
                    )
                if len(set(free)) + len(used) != lane.capacity or used & set(free):
                    raise BankIntegrityError(
                        f"{len(used)} used + {len(free)} free positions, capacity {lane.capacity}"
                    )

    def _release(self, entry: BankEntry) -> None:
        entry.lane.release(entry.position)
        if not entry.lane.used:
            with self._lock:
                self._lanes = {s: lane for s, lane in self._lanes.items() if lane is not entry.lane}

    def _layout(self, signature: Signature) -> AdapterLayout:
        with self._lock:
            lane = self._lanes.get(signature)
        return adapter_layout(self.sites, signature) if lane is None else lane.layout

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.slots:
            raise ValueError(f"slot {slot} is outside 0..{self.slots - 1}")

    def _check_path(self, path: str) -> tuple[int, int]:
        shape = self._modules.get(path)
        if shape is None:
            raise ValueError(f"{path} is not a module of any fused site")
        return shape

    def _check_module(self, path: str, lora_a: torch.Tensor, lora_b: torch.Tensor) -> None:
        in_features, width = self._check_path(path)
        rank = lora_a.shape[0]
        if lora_a.shape != (rank, in_features) or lora_b.shape != (width, rank):
            raise ValueError(
                f"{path}: A {tuple(lora_a.shape)} and B {tuple(lora_b.shape)} do not fit "
                f"[r, {in_features}] and [{width}, r]"
            )
        if not 0 < rank <= self.max_rank:
            raise ValueError(f"{path}: rank {rank} is outside 1..{self.max_rank}")
