"""The slots of the torch engine: PEFT folders into an adapter bank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.adapters.loader import load_adapter
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AdapterConfig
from cluster.domain.adapter import AdapterManifest, BaseCheck
from cluster.domain.ids import AdapterDigest
from cluster.engine.execution.device_loss import is_device_lost
from cluster.engine.port import LoadableAdapter
from cluster.errors import AdapterNotFinite, IntegrityError
from kernels.errors import BankIntegrityError
from kernels.lora.bank import AdapterBank
from kernels.lora.packed import PackedAdapter


@dataclass(frozen=True, slots=True)
class BankAdapter:
    """An adapter in the form that a bank copies from."""

    manifest: AdapterManifest
    packed: PackedAdapter

    @property
    def nbytes(self) -> int:
        """Bytes in host memory."""
        return self.packed.nbytes


class BankSlots:
    """Implements `cluster.engine.port.AdapterSlots` over one bank.

    Args:
        bank: the engine's; nothing else writes to it.
        config: limits of the adapters that it takes.
        on_device_lost: receives an error after which nothing can be computed any more.
    """

    def __init__(
        self,
        bank: AdapterBank,
        config: AdapterConfig,
        on_device_lost: Callable[[Exception], None],
    ) -> None:
        self._bank = bank
        self._config = config
        self._on_device_lost = on_device_lost

    def required_nbytes(self, ranks: Mapping[str, int]) -> int:
        """Return the bytes that an adapter will take, as in `AdapterSlots`."""
        return self._bank.required_nbytes(ranks)

    def read_adapter(
        self,
        folder: Path,
        base: BaseShapes,
        *,
        digest: AdapterDigest | None = None,
        base_check: BaseCheck | None = None,
        links_below: Path | None = None,
    ) -> BankAdapter:
        """Read an adapter as in `AdapterSlots`; its values are rounded to the bank's dtype here."""
        loaded = load_adapter(
            folder, base, self._config, digest, base_check=base_check, links_below=links_below
        )
        packed = self._bank.pack(loaded.tensors)
        if not packed.is_finite:
            raise AdapterNotFinite(
                f"{folder}: B times the scaling is not finite in {packed.row.dtype}"
            )
        return BankAdapter(loaded.manifest, packed)

    def place(self, slot: int, adapter: LoadableAdapter) -> None:
        """Load an adapter into a slot, as in `AdapterSlots`.

        Raises:
            TypeError: another engine read the adapter.
        """
        if not isinstance(adapter, BankAdapter):
            raise TypeError(
                f"slot {slot} is given a {type(adapter).__name__}, expected BankAdapter"
            )
        try:
            self._bank.place(slot, adapter.packed)
        except RuntimeError as error:
            if is_device_lost(error):
                self._on_device_lost(error)
            raise

    def clear(self, slot: int) -> None:
        """Empty a slot, as in `AdapterSlots`."""
        self._bank.clear(slot)

    def nbytes(self, slot: int) -> int:
        """Return the device bytes of a slot's content, as in `AdapterSlots`."""
        return self._bank.nbytes(slot)

    def check_integrity(self) -> None:
        """Check the books of the slots, as in `AdapterSlots`."""
        try:
            self._bank.check_integrity()
        except BankIntegrityError as error:
            raise IntegrityError(str(error)) from error
