"""Random adapters, read once, that are put into a bank and taken out between measurements."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster.adapters.loader import LoraTensors, load_adapter
from cluster.adapters.random_adapters import write_adapters
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AdapterConfig
from kernels.lora.bank import AdapterBank


class AdapterShelf:
    """Adapters on disk in PEFT's format, and in host memory as our loader reads them.

    The folder lives as long as the shelf; leave it with ``close``.
    """

    def __init__(self, model: Path, count: int, rank: int, seed: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="braid-bench-")
        root = Path(self._folder.name)
        names = write_adapters(model, root, count, rank, seed) if count else []
        self.folders: tuple[Path, ...] = tuple(root / name for name in names)
        self.tensors: tuple[Mapping[str, LoraTensors], ...] = ()

    def read(self, modules: Mapping[str, tuple[int, int]], config: AdapterConfig) -> None:
        """Read all adapters through our loader, which checks them against the base's modules.

        Raises:
            AdapterError: one does not fit.
        """
        shapes = BaseShapes("bench", modules)
        self.tensors = tuple(
            load_adapter(folder, shapes, config).tensors for folder in self.folders
        )

    def fill(self, bank: AdapterBank, count: int) -> None:
        """Leave exactly the first ``count`` adapters in the bank, in the slots of their numbers."""
        occupied = bank.occupied
        for slot in occupied - set(range(count)):
            bank.clear(slot)
        for slot in sorted(set(range(count)) - occupied):
            bank.write(slot, self.tensors[slot])

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()
