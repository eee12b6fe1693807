"""What keeping freed memory saves: a network's forward pass on the CPU, with and without `memory.hold()`, in turn.

    python benchmarks/memory.py

Every measurement has a process of its own. Median milliseconds a picture, batches of 32.
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


def milliseconds(name: str, pixels: int, held: bool) -> float:
    """Of one picture, in this process. Random weights: what they are changes nothing."""
    if held:
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


def apart(name: str, pixels: int, held: bool) -> float:
    command = [sys.executable, __file__, name, str(pixels), str(int(held))]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    if len(sys.argv) > 1:
        print(milliseconds(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"))
        return
    print(line(str(RUNS)))
    print(f"{'network':20}{'pixels':>7}{'as it is':>10}{'held':>8}{'ratio':>7}")
    for name in NAMES:
        for pixels in SIZES:
            pairs = [(apart(name, pixels, False), apart(name, pixels, True)) for _ in range(RUNS)]
            plain, held = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
            print(f"{name:20}{pixels:7}{plain:10.2f}{held:8.2f}{plain / held:7.1f}")


if __name__ == "__main__":
    main()
