"""Names what an engine computes on, so that figures of one device are not taken for another's."""

from pathlib import Path

import torch

CPU_FACTS = Path("/proc/cpuinfo")


def device_name(device: torch.device, threads: int) -> str:
    """Return a GPU's name, or a CPU's with its ``threads``; 0: as many as torch chooses."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu: {_cpu_model()}, {threads or torch.get_num_threads()} threads"


def _cpu_model(facts: Path = CPU_FACTS) -> str:
    """Return the processor's own name where the system tells it, else its instruction set."""
    if facts.is_file():
        for line in facts.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return str(torch.backends.cpu.get_cpu_capability())
