"""A trained adapter on disk: PEFT's two files and a manifest of how it was made."""

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save

from router_service.artifacts.whole_file import replace_file

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
MANIFEST_FILE = "manifest.json"


def export_adapter(
    out: Path,
    weights: dict[str, torch.Tensor],
    lora: LoraConfig,
    manifest: dict[str, Any],
    *,
    dtype: torch.dtype = torch.bfloat16,
) -> int:
    """Write the adapter into `out`: weights as `dtype`, PEFT's config, the manifest.

    Returns the bytes of the weights' file. It comes last and whole: a folder that has it is
    complete. The same arguments give the same bytes: PEFT keeps module names in sets, whose order
    changes from process to process.
    """
    out.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        **lora.to_dict(),  # type: ignore[no-untyped-call]
        "base_model_name_or_path": manifest["base_model"],
        "inference_mode": True,
    }
    _write_json(out / CONFIG_FILE, {key: _plain(value) for key, value in config.items()})
    _write_json(out / MANIFEST_FILE, manifest)
    rounded = {key: weights[key].to(dtype).contiguous() for key in sorted(weights)}
    replace_file(out / WEIGHTS_FILE, save(rounded, metadata={"format": "pt"}))
    return (out / WEIGHTS_FILE).stat().st_size


def created_by() -> str:
    """Name this program and its version, for the manifest."""
    try:
        return f"braid-serve {version('braid-serve')}"
    except PackageNotFoundError:
        return "braid-serve (not installed)"


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
