"""vLLM's LoRA kernels out of an unpacked wheel, for comparison: vLLM itself is not started.

Its kernel files import some names from the rest of vLLM, for which others stand in here.
"""

import importlib
import logging
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.lora.own_lora import AddAt
from benchmarks.gpu.random_models import RandomSize
from benchmarks.gpu.workloads import RANK
from kernels.lora.lora_batch import Mixture

_KERNELS = "vllm.lora.ops.triton_ops"


class _Platform:
    """Stands for vLLM's current platform."""

    def is_cuda(self) -> bool:
        return torch.cuda.is_available()

    def has_device_capability(self, wanted: int) -> bool:
        major, minor = torch.cuda.get_device_capability()
        return major * 10 + minor >= wanted


class _OnceLogger(logging.Logger):
    """Stands for vLLM's logger."""

    def warning_once(self, *_: object) -> None:
        """Say nothing."""

    def info_once(self, *_: object) -> None:
        """Say nothing."""


class VllmLora:
    """Adapters as vLLM lays them out. A mixture of k is k passes over the rows, as its kernels know
    one adapter for each token, and no weights."""

    def __init__(
        self,
        root: Path,
        size: RandomSize,
        layers: int,
        slots: int,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        """Import the kernels of a wheel unpacked at ``root``.

        Raises:
            ImportError: they are not there, or need more of vLLM than stands in for it.
        """
        self._shrink, self._expand, self._meta_class = _import_kernels(root)
        self._device, self._slots = device, slots

        def weights(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device=device).mul_(0.02).to(dtype)

        self._stacks = [
            {
                name: (
                    [weights(slots, RANK, inside) for _ in widths],
                    [weights(slots, width, RANK) for width in widths],
                )
                for name, (inside, widths) in size.sites.items()
            }
            for _ in range(layers)
        ]

    def step(self, mixtures: Sequence[Mixture], tokens: int = 1) -> AddAt:
        """Return the kernels for rows of so many tokens each."""
        passes = [self._pass(mixtures, tokens, term) for term in range(max(map(len, mixtures)))]

        def add(y: torch.Tensor, x: torch.Tensor, layer: int, site: str) -> None:
            a, b = self._stacks[layer][site]
            for meta, weights in passes:
                shrunk = torch.empty(
                    (len(a), x.shape[0], RANK), dtype=torch.float32, device=x.device
                )
                self._shrink(x, a, shrunk, *meta, 1.0)
                if weights is not None:
                    shrunk.mul_(weights)
                self._expand(shrunk, b, y, *meta, offset_start=0, add_inputs=True)

        return add

    def _pass(
        self, mixtures: Sequence[Mixture], tokens: int, term: int
    ) -> tuple[Any, torch.Tensor | None]:
        slots = [mixture[term][0] if term < len(mixture) else -1 for mixture in mixtures]
        weights = [mixture[term][1] if term < len(mixture) else 0.0 for mixture in mixtures]
        mapping = torch.tensor(slots, dtype=torch.int32).repeat_interleave(tokens).to(self._device)
        meta = self._meta_class.make(self._slots, len(mapping), self._device)
        meta.prepare_tensors(mapping)
        arguments = meta.meta_args(len(mapping), False)
        if set(weights) == {1.0}:
            return arguments, None
        by_token = torch.tensor(weights).repeat_interleave(tokens).to(self._device)
        return arguments, by_token[None, :, None]


def _import_kernels(root: Path) -> tuple[Any, Any, Any]:
    """Return shrink, expand and the class of their metadata."""
    import triton
    import triton.language as tl

    folder = root / "vllm"
    _stand_in("vllm", folder / "nothing")
    _stand_in("vllm.envs")
    envs = types.SimpleNamespace(
        VLLM_BATCH_INVARIANT=False, VLLM_TUNED_CONFIG_FOLDER=None, VLLM_LORA_DISABLE_PDL=False
    )
    setattr(sys.modules["vllm"], "envs", envs)  # noqa: B010
    _stand_in("vllm.logger", init_logger=_OnceLogger)
    _stand_in("vllm.platforms", current_platform=_Platform())
    _stand_in("vllm.triton_utils", tl=tl, triton=triton)
    _stand_in("vllm.utils", folder / "nothing")
    _stand_in(
        "vllm.utils.math_utils", next_power_of_2=lambda number: 1 << (number - 1).bit_length()
    )
    _stand_in(
        "vllm.utils.torch_utils",
        direct_register_custom_op=lambda **_: None,
        async_tensor_h2d=lambda data, dtype, device: torch.tensor(data, dtype=dtype).to(device),
    )
    for name in ("vllm.lora", "vllm.lora.ops", _KERNELS):
        _stand_in(name, folder / Path(*name.split(".")[1:]))
    shrink = importlib.import_module(f"{_KERNELS}.lora_shrink_op")
    expand = importlib.import_module(f"{_KERNELS}.lora_expand_op")
    meta = importlib.import_module(f"{_KERNELS}.lora_kernel_metadata")
    return shrink._lora_shrink, expand._lora_expand, meta.LoRAKernelMeta


def _stand_in(name: str, path: Path | None = None, **names: object) -> None:
    module = types.ModuleType(name)
    if path is not None:
        module.__path__ = [str(path)]
    vars(module).update(names)
    sys.modules[name] = module
