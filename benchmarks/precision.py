"""Compare training steps in float32 and bfloat16 on a CPU, for stages with and without grouped convolutions.

    python benchmarks/precision.py

Median milliseconds of a step (forward, backward, AdamW) on 32 pictures, float32 and bfloat16 alternating, channels
last. `autotune.training` uses bfloat16 on a CPU that supports it if the unfrozen stages have no grouped convolution.
"""

import copy
import platform
import statistics
import time

import torch
from torch import nn

from autotune.backbones.registry import discover
from autotune.backbones.weights import find_weights, load_stages
from autotune.cache.features import channels_last
from autotune.training.malloc import keep_freed_memory

RUNS = 15


def step_seconds(tail: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, half: bool) -> float:
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = tail(x).float().square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return time.perf_counter() - start


def compare(name: str, depth: int, pixels: int) -> None:
    entry = discover().find(name)
    chain = load_stages(entry, find_weights(entry)).eval()
    cut = len(chain) - depth
    with torch.no_grad():
        x = channels_last(chain[:cut](torch.randn(32, 3, pixels, pixels)))
    tails = [copy.deepcopy(chain[cut:]).to(memory_format=torch.channels_last) for _ in range(2)]
    optimizers = [torch.optim.AdamW(tail.parameters(), 1e-4, fused=True) for tail in tails]
    taken: list[list[float]] = [[], []]
    for run in range(RUNS + 2):
        for half in (0, 1):
            seconds = step_seconds(tails[half], optimizers[half], x, bool(half))
            if run >= 2:
                taken[half].append(seconds)
    single, halved = (1000 * statistics.median(found) for found in taken)
    grouped = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in tails[0].modules())
    print(
        f"{name:20} {depth:5} {pixels:6} {'yes' if grouped else 'no':>8} {single:9.1f} "
        f"{halved:9.1f} {halved / single:6.2f}"
    )


def main() -> None:
    keep_freed_memory()
    print(f"{platform.platform()}, torch {torch.__version__}, {torch.get_num_threads()} threads, n = {RUNS}")
    print(f"{'backbone':20} {'depth':>5} {'pixels':>6} {'grouped':>8} {'float32':>9} {'bfloat16':>9} {'ratio':>6}")
    compare("small_cnn", 3, 32)
    for pixels in (64, 160, 224):
        for depth in (1, 2, 3):
            compare("efficientnet_lite0", depth, pixels)


if __name__ == "__main__":
    main()
