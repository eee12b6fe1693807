"""How much memory a study uses, of how much the machine has."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from autotune.text import file_size


@dataclass(frozen=True)
class MemoryUse:
    """Bytes. own, workers: resident, of the driver and of its children. gpu: in use, by all programs, and there."""

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
    """What is in use now, in this process, in its children, and on the GPU where the device is one."""
    me = psutil.Process()
    children = sum(_resident(child) for child in me.children(recursive=True))
    return MemoryUse(_resident(me), children, psutil.virtual_memory().total, _gpu(device))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has ended meanwhile
        return 0


def _gpu(device: str) -> tuple[int, int] | None:
    if not device.startswith("cuda"):
        return None
    import torch

    free, there = torch.cuda.mem_get_info(torch.device(device))
    return there - free, there
