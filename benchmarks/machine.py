"""Helpers of the benchmarks: the line that describes the machine, a search in a separate folder, and targets."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch


def line(n: str) -> str:
    """Return processor, cores, accelerator, versions and n in one line."""
    return f"{os.cpu_count()} x {_processor()}{_accelerator()}, Python {platform.python_version()}, {_torch()}, n = {n}"


def search(folder: Path, cache: Path, photos: Path, *options: str) -> float:
    """Run `autotune search` in this folder with this cache folder; return the seconds of the process."""
    command = [sys.executable, "-m", "autotune", "search", str(photos.resolve()), *options]
    start = time.perf_counter()
    around = {**os.environ, "AUTOTUNE_CACHE": str(cache)}
    done = subprocess.run(command, cwd=folder, env=around, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"autotune search failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return seconds


def verdict(value: float, target: float, at_least: bool = True) -> str:
    """Format a value with its target and whether it is reached."""
    reached = value >= target if at_least else value <= target
    words = f"{value:.3g} (target {'at least' if at_least else 'at most'} {target:g})"
    return f"{words}: {'reached' if reached else 'MISSED'}"


def numbers(text: str) -> tuple[int, ...]:
    """Parse comma-separated integers of a command line option."""
    return tuple(int(word) for word in text.split(","))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = info.read_text().splitlines() if info.is_file() else []
    return next((row.split(": ", 1)[1].strip() for row in found if row.startswith("model name")), platform.machine())


def _accelerator() -> str:
    return f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""


def _torch() -> str:
    return f"torch {torch.__version__}"
