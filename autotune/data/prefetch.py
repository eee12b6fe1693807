"""Prefetching: a thread prepares batches in pinned memory while the GPU computes on earlier ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

Batch = tuple[Tensor, ...]


def prefetch_count(device: torch.device) -> int:
    """Return the number of batches to prefetch; 0 on a CPU, where it would take cores from the network."""
    return 2 if device.type == "cuda" else 0


def prefetch(batch: Callable[[int], Batch], numbers: Iterable[int], ahead: int) -> Iterator[Batch]:
    """Yield the batches of these numbers, in order; `ahead` batches are prepared in advance."""
    if not ahead:
        yield from map(batch, numbers)
        return
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for number in numbers:
            waiting.append(pool.submit(_pinned, batch, number))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _pinned(batch: Callable[[int], Batch], number: int) -> Batch:
    """Return a batch in pinned memory if there is a GPU, to copy it while the GPU computes."""
    made = batch(number)
    if not torch.cuda.is_available():
        return made
    return tuple(part.pin_memory() if part.device.type == "cpu" else part for part in made)
