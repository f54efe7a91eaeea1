"""Tells if this machine has an NVIDIA device; needs nothing but Python's own library."""

import shutil
from pathlib import Path


def has_nvidia_device(devices: Path = Path("/dev")) -> bool:
    """Check if this machine shows an NVIDIA device or its driver's command."""
    return any(devices.glob("nvidia*")) or shutil.which("nvidia-smi") is not None
