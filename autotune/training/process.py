"""What a process sets once, before its first computation on a device."""

from __future__ import annotations

import os

import torch

from autotune.training.malloc import keep_freed_memory


def prepare_process(device: torch.device) -> None:
    """Set what the speed and the results of all later computations depend on."""
    keep_freed_memory()
    if device.type != "cuda":
        return
    # TF32: tensor cores multiply float32 numbers with 11 bits of precision, which is that of half precision.
    torch.set_float32_matmul_precision("high")
    # One seed gives one result. Lightning would set this in the first trial, but cuBLAS reads its variable once.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # No memory here is read before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
