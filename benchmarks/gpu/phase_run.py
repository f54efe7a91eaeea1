"""A phase's options, and the file of JSON lines that its figures go to as they are found."""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.random_models import SIZES, RandomSize

Line = dict[str, Any]
"""One figure: its ``kind``, ``at_s`` of its phase, and fields by kind."""


class PhaseRun:
    """One phase under way.

    Args:
        device: "cuda", or "cpu" for a rehearsal at tiny sizes.
        size: name of the model's size.
        seconds: after which the phase should begin nothing more.
        lines: file that figures are appended to.
        peer: folder of vLLM's unpacked kernels; None: they are left out.
    """

    def __init__(
        self, device: str, size: str, seconds: float, lines: Path, peer: Path | None = None
    ) -> None:
        self.device, self.peer = device, peer
        self.size: RandomSize = SIZES[size]
        self.is_rehearsal = device == "cpu"
        self.lines, self._seconds = lines, seconds
        self._began = time.perf_counter()

    @classmethod
    def of(cls, arguments: Sequence[str] | None) -> "PhaseRun":
        """Return the run that a phase's command line asks for."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
        parser.add_argument("--size", choices=list(SIZES), required=True)
        parser.add_argument("--seconds", type=float, required=True)
        parser.add_argument("--lines", type=Path, required=True)
        parser.add_argument("--peer", type=Path)
        return cls(**vars(parser.parse_args(arguments)))

    @property
    def spent_s(self) -> float:
        """Seconds since the phase began."""
        return time.perf_counter() - self._began

    def is_late(self, part: float = 1.0) -> bool:
        """Return whether this part of the phase's time has gone; the first time a part is late, a
        line says so."""
        late = self.spent_s > part * self._seconds
        if late:
            self.record("problem", text=f"no time for more after {self.spent_s:.0f} s")
        return late

    def record(self, kind: str, **fields: object) -> None:
        """Append a line at once: it stays if the phase is stopped."""
        line = json.dumps({"kind": kind, "at_s": round(self.spent_s, 1), **fields})
        with self.lines.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a file; nothing if it is not there."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def bandwidth(lines: Path) -> float:
    """Return the bytes per second at which the device was seen to read or copy, at best; 1 TB/s if
    it was not measured."""
    seen = [line["tb_per_s"] for line in read_lines(lines) if line["kind"] == "memory"]
    return max(seen, default=1.0) * 1e12
