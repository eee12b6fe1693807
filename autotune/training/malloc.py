"""Memory: what large arrays leave behind is kept for the next ones."""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
LARGEST_MAPPED = 2**30  # bytes; what is larger still gets pages of its own
PAD = 64 * 2**20


def keep_freed_memory() -> None:
    """Have glibc keep freed memory. By itself it hands back every array over 32 MB, and the kernel clears each page
    again when the next layer asks for as much: a forward pass on a CPU then takes several times as long
    (benchmarks/memory.py). Elsewhere than on Linux with glibc, nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    libc.mallopt(MMAP_THRESHOLD, LARGEST_MAPPED)
    libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(TOP_PAD, PAD)
