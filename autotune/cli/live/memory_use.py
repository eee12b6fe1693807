"""Memory used by a study, and memory of the machine."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from autotune.text import file_size


@dataclass(frozen=True)
class MemoryUse:
    """Bytes. own, workers: memory of the driver and of its children. gpu: used by all programs, and total."""

    own: int
    workers: int
    machine: int
    gpu: tuple[int, int] | None = None

    @property
    def words(self) -> str:
        parts = f"driver {file_size(self.own)}" + (f", workers {file_size(self.workers)}" if self.workers else "")
        said = f"Memory: {file_size(self.own + self.workers)} of {file_size(self.machine)} ({parts})"
        return f"{said}; GPU {file_size(self.gpu[0])} of {file_size(self.gpu[1])}" if self.gpu else said


def memory_in_use(device: str) -> MemoryUse:
    """Measure this process, its children and, if `device` is a GPU, the GPU."""
    me = psutil.Process()
    children = sum(_memory(child) for child in me.children(recursive=True))
    return MemoryUse(_memory(me), children, psutil.virtual_memory().total, _gpu(device))


def _memory(process: psutil.Process) -> int:
    """Return the resident memory; of pages that processes share, each has its part, where the system tells it."""
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", full.rss))
    except psutil.Error:  # the process has just ended
        return 0


def _gpu(device: str) -> tuple[int, int] | None:
    if not device.startswith("cuda"):
        return None
    import torch

    free, total = torch.cuda.mem_get_info(torch.device(device))
    return total - free, total
