"""Settings of malloc: memory freed by large arrays is kept for the next ones."""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
LARGEST_MAPPED = 2**30  # bytes; what is larger still gets pages of its own
PAD = 64 * 2**20


def keep_freed_memory() -> None:
    """Make glibc keep freed memory; without glibc, do nothing.

    By default it returns every array over 32 MB to the kernel, which clears each page again when the next layer needs
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
