"""Measure the effect of `keep_freed_memory()` on a network's forward pass on the CPU.

    python benchmarks/memory.py

Median milliseconds per picture in batches of 32. Every measurement runs in a separate process; those with and without
it alternate.
"""

import statistics
import subprocess
import sys
import time

import torch
from machine import line

from autotune.backbones.registry import discover
from autotune.backbones.weights import find_weights, load_stages
from autotune.cache.features import BATCH, channels_last
from autotune.training.malloc import keep_freed_memory

RUNS, BATCHES = 3, 4
NAMES = ("efficientnet_lite0", "resnet18")
SIZES = (128, 224)


def milliseconds(name: str, pixels: int, keep: bool) -> float:
    """Return the milliseconds per picture in this process, with random weights, which take the same time."""
    if keep:
        keep_freed_memory()
    entry = discover().find(name)
    chain = load_stages(entry, find_weights(entry), pretrained=False).eval().to(memory_format=torch.channels_last)
    x = channels_last(torch.randn(BATCH, 3, pixels, pixels))
    with torch.no_grad():
        chain(x)
        start = time.perf_counter()
        for _ in range(BATCHES):
            chain(x)
    return 1000 * (time.perf_counter() - start) / (BATCHES * BATCH)


def in_subprocess(name: str, pixels: int, keep: bool) -> float:
    command = [sys.executable, __file__, name, str(pixels), str(int(keep))]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    if len(sys.argv) > 1:
        print(milliseconds(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"))
        return
    print(line(str(RUNS)))
    print(f"{'network':20}{'pixels':>7}{'default':>10}{'kept':>8}{'ratio':>7}")
    for name in NAMES:
        for pixels in SIZES:
            pairs = [(in_subprocess(name, pixels, False), in_subprocess(name, pixels, True)) for _ in range(RUNS)]
            plain, kept = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
            print(f"{name:20}{pixels:7}{plain:10.2f}{kept:8.2f}{plain / kept:7.1f}")


if __name__ == "__main__":
    main()
