"""Keeps adapters in memory as the files that an engine host loads from."""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cluster.adapters.format.manifest import CONFIG_FILE, WEIGHTS_FILE
from cluster.adapters.loader import LoraTensors
from cluster.domain.adapter import AdapterManifest
from cluster.errors import AdapterNotFinite

MEMORY = Path("/dev/shm")
"""Files here lie in memory, on the systems that have it."""
_PREFIX = "braid-adapters-"
_LOCK = "lock"


class FiledAdapter:
    """An adapter in files of its own, which go when nothing refers to it any more."""

    def __init__(self, manifest: AdapterManifest, folder: Path, nbytes: int) -> None:
        self.manifest = manifest
        self.folder = folder
        self.nbytes = nbytes
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)


class AdapterFiles:
    """Folders of one engine's adapters, in memory where the system has files in memory.

    Args:
        dtype: that values are rounded to.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        parent = MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir())
        _remove_abandoned(parent)
        self._root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock = (self._root / _LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def write(self, manifest: AdapterManifest, tensors: Mapping[str, LoraTensors]) -> FiledAdapter:
        """Write an adapter in PEFT's format, with its scaling multiplied into B.

        Raises:
            AdapterNotFinite: a value is not finite in the dtype.
        """
        files: dict[str, torch.Tensor] = {}
        ranks = {module: lora.A.shape[0] for module, lora in tensors.items()}
        for module, lora in tensors.items():
            scaled = (lora.B.to(torch.float32) * lora.scaling).to(self._dtype)
            for side, tensor in (("A", lora.A.to(self._dtype)), ("B", scaled)):
                if not tensor.isfinite().all():
                    raise AdapterNotFinite(
                        f"{module}: {side} with its scaling is not finite in {self._dtype}"
                    )
                files[f"base_model.model.{module}.lora_{side}.weight"] = tensor.contiguous()
        folder = Path(tempfile.mkdtemp(dir=self._root))
        save_file(files, folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(_config(ranks)))
        return FiledAdapter(manifest, folder, sum(tensor.nbytes for tensor in files.values()))

    def close(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self._root, ignore_errors=True)
        self._lock.close()


def _config(ranks: Mapping[str, int]) -> dict[str, Any]:
    """Return PEFT's configuration of an adapter whose scaling is 1 at every module."""
    most = max(ranks.values())
    other = {module: rank for module, rank in ranks.items() if rank != most}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": most,
        "lora_alpha": most,
        "rank_pattern": other,
        "alpha_pattern": other,
        "target_modules": sorted({module.rpartition(".")[2] for module in ranks}),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
    }


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of engines that were killed: no process holds their locks any more."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, another user's, or being made
