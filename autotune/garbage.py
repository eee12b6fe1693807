"""What garbage collection may cost a process of ours that loads torch."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

THRESHOLDS = 10_000, 10, 10  # of new objects, and of collections of the younger generation


@contextlib.contextmanager
def collected_less_often() -> Iterator[None]:
    """Start and end a process sooner; for one that ends with the block.

    Importing torch and Lightning makes 450,000 objects that stay. Python's own first threshold, 700 up to 3.12, has
    them looked through again and again meanwhile, and once more, one by one, when the process ends
    (benchmarks/process.py).
    """
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.freeze()
