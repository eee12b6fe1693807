"""malloc settings: reuse the memory of freed large arrays."""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
LARGEST_MAPPED = 2**30  # bytes; larger arrays are still mapped separately
PAD = 64 * 2**20


def keep_freed_memory() -> None:
    """Make glibc keep freed memory; without glibc, do nothing.

    By default glibc returns every array over 32 MB to the kernel, which clears each page before the next layer uses
    it: a forward pass on a CPU then takes several times as long (benchmarks/memory.py).
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    libc.mallopt(MMAP_THRESHOLD, LARGEST_MAPPED)
    libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(TOP_PAD, PAD)
