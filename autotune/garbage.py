"""Settings of the garbage collector for processes that load torch."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

THRESHOLDS = 10_000, 10, 10  # arguments of gc.set_threshold


@contextlib.contextmanager
def collected_less_often() -> Iterator[None]:
    """Collect garbage less often, to start and end a process faster. The process must end with the block.

    Importing torch and Lightning creates 450,000 long-lived objects. With Python's default first threshold, 700 up to
    3.12, the collector traverses them many times during the import and again when the process ends
    (benchmarks/process.py).
    """
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.freeze()
