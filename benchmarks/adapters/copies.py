"""Any number of adapters of one size, each with bytes of its own, made in no time."""

import json
import struct
from pathlib import Path

from cluster.adapters.random_adapters import write_adapters
from testing.signatures.signature_maker import tar_of

WEIGHTS = "adapter_model.safetensors"
DIGITS = 3
BASE = 128
"""Numbers are written with so many digits to this base: as bfloat16, digit / 1024 is exact."""


class Copies:
    """One random adapter on all seven linear modules, with a number written into its first row.

    Args:
        model: folder of the base.
        folder: where the one that is copied is written.
    """

    def __init__(self, model: Path, folder: Path, rank: int, seed: int) -> None:
        (alias,) = write_adapters(model, folder, 1, rank, seed)
        self._folder = folder / alias
        data = (self._folder / WEIGHTS).read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        first = min(
            (entry["data_offsets"][0] for name, entry in header.items() if "lora_A" in name)
        )
        self._data, self._at = data, 8 + size + first
        self.nbytes = len(data)

    def write(self, folder: Path, number: int) -> Path:
        """Write a PEFT folder of copy ``number``."""
        folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "adapter_config.json"
        (folder / config.name).write_bytes(config.read_bytes())
        digits = [number // BASE**place % BASE for place in range(DIGITS)]
        # The upper half of a float32 is the bfloat16 of a number that needs no more digits.
        numbers = b"".join(struct.pack("<f", digit / 1024)[2:] for digit in digits)
        end = self._at + len(numbers)
        (folder / WEIGHTS).write_bytes(self._data[: self._at] + numbers + self._data[end:])
        return folder

    def archive(self, folder: Path, number: int) -> bytes:
        """Pack copy ``number`` as an archive to upload; ``folder`` is overwritten each time."""
        return tar_of(self.write(folder, number))
