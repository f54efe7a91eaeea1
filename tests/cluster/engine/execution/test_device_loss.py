"""Errors of a device that is lost, and those that a later step may not have."""

import pytest
import torch

from cluster.engine.execution.device_loss import is_device_lost
from cluster.errors import EngineError


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("CUDA driver error: unknown error"),
    ],
)
def test_the_device_is_lost(error: Exception) -> None:
    assert is_device_lost(error)
    outer = EngineError("the step failed")
    outer.__cause__ = error
    assert is_device_lost(outer)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("CUDA error"),
        EngineError("out of device memory"),
    ],
)
def test_a_later_step_may_succeed(error: Exception) -> None:
    assert not is_device_lost(error)
    outer = EngineError("the step failed")
    outer.__cause__ = error
    assert not is_device_lost(outer)


def test_a_loss_that_comes_of_a_lack_of_memory_counts() -> None:
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    lost.__context__ = torch.OutOfMemoryError("CUDA out of memory")
    assert is_device_lost(lost)
