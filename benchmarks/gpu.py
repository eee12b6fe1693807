"""Measure fine-tuning throughput on a GPU, and the time of a study of the size of CIFAR-10.

    python benchmarks/gpu.py [--pictures 4096] [--cifar 50000] [--trials 10]

Compares the pictures per second of autotune's training (Lightning; from the feature cache, or from pixels if all stages
are unfrozen), without the first epoch, with those of a bare training loop of the same network on random data in GPU
memory. Networks have random weights. Then measures the wall time of a whole `autotune search` on generated pictures of
32 pixels, one colour per class, with an empty cache. Without a GPU the same code runs once with tiny sizes, and the
printed numbers are not measurements.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import bare
import machine
import made_up
import numpy as np
import torch
from PIL import Image

from autotune.cache.pixels import pixel_rows
from autotune.study.storage.record import open_record
from autotune.training.context import LoadedBackbones
from autotune.training.params import Params
from autotune.training.probe import probe_file_name
from autotune.training.trainer import quiet_lightning
from autotune.training.trial import run_probe, run_trial

BACKBONES = ("efficientnet_lite0", "resnet18")
BATCH_SIZE = 64


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements. trials, cifar: of the whole study."""

    pictures: int
    rest: int
    pixels: int
    epochs: int
    steps: int
    cifar: int
    trials: int


@dataclass(frozen=True)
class Row:
    """Pictures per second, in autotune and in the bare loop. source: of the training data, "cache" or "pixels"."""

    backbone: str
    depth: int
    source: str
    own: float
    bare: float


def rates(sizes: Sizes, folder: Path, device: torch.device) -> Iterator[Row]:
    """Measure each backbone at depths 0, 2 and all."""
    weights = made_up.random_weights(BACKBONES, folder / "weights")
    parts = made_up.split(sizes.pictures, sizes.rest, folder)
    for name in BACKBONES:
        for depth in (0, 2, None):
            flags = {"backbone": name, "pixels": sizes.pixels, "epochs": sizes.epochs, "patience": sizes.epochs}
            if depth is not None:
                flags["depth"] = depth
            context = made_up.context(parts, device.type, flags, weights)
            traits = context.backbones[name][0].traits
            store = pixel_rows(sizes.pixels, traits.interpolation)
            if store.missing(context.train.digests):
                made_up.write_random(store, [picture.digest for picture in parts.pictures])
            yield rate(LoadedBackbones(context), name, depth, sizes, folder)


def rate(backbones: LoadedBackbones, name: str, asked: int | None, sizes: Sizes, scratch: Path) -> Row:
    chain = backbones.chain(name)
    depth = len(chain) if asked is None else asked
    bare_loop = bare_rate(backbones, name, depth, sizes)  # first, because Lightning selects deterministic kernels
    params = Params(
        backbone=name, depth=depth, pixels=sizes.pixels, lr_low=1e-6, lr_high=1e-5, cycle="triangular", augment=0.5,
        class_weight=0.0, optimizer="adamw", batch_size=BATCH_SIZE, weight_decay=0.01, dropout=0.0, label_smoothing=0.0,
    )  # fmt: skip
    reporter = made_up.Reporter()
    with quiet_lightning():
        probe = run_probe(backbones, name, sizes.pixels, reporter)
        files = {probe_file_name(name, sizes.pixels): probe.head}
        run_trial(backbones, 0, params, files, scratch, reporter)
    later = [row.seconds for row in reporter.rows[1:]]
    cut = len(chain) - depth
    is_cached = cut > 0 and cut in backbones.context.cuts[name, sizes.pixels]
    return Row(name, depth, "cache" if is_cached else "pixels", sizes.pictures * len(later) / sum(later), bare_loop)


def bare_rate(backbones: LoadedBackbones, name: str, depth: int, sizes: Sizes) -> float:
    torch.use_deterministic_algorithms(False)
    device, context, chain = backbones.device, backbones.context, backbones.chain(name)
    traits = context.backbones[name][0].traits
    features = bare.below(chain, len(chain), 1, sizes.pixels, torch.device("cpu")).shape[1]
    tail = bare.Tail(chain, depth, features, context.classes, "adamw", traits, device)
    x = bare.below(chain, len(chain) - depth, BATCH_SIZE, sizes.pixels, device)
    return BATCH_SIZE / tail.step_seconds(x, sizes.steps)


def cifar(n: int, folder: Path) -> Path:
    """Write n noisy pictures of 32 pixels in ten classes, one colour per class."""
    colours = np.random.default_rng(0).integers(40, 216, (10, 3))

    def write(number: int) -> None:
        noise = np.random.default_rng(number).normal(0, 40, (32, 32, 3))
        picture = (colours[number % 10] + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / str(number % 10) / f"{number}.png", compress_level=1)

    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(write, range(n)):
            pass
    return folder


def whole_study(sizes: Sizes, folder: Path, device: torch.device) -> str:
    photos = cifar(sizes.cifar, folder / "pictures")
    tiny = () if device.type == "cuda" else ("--epochs", "1")
    seconds = machine.search(
        folder, folder / "cifar-cache", photos, "--study", "cifar", "--trials", str(sizes.trials), "--device",
        device.type, *tiny,
    )  # fmt: skip
    with open_record(folder / "studies" / "cifar") as record:
        parts = record.facts().seconds
        caching = sum(row.cache_seconds for row in record.probes())
        caching += sum(row.cache_seconds or 0.0 for row in record.trials())
        trials = sum((row.seconds or 0.0) - (row.cache_seconds or 0.0) for row in record.trials())
        finals = sum(row.seconds or 0.0 for row in record.folds())
        epochs = sum(row.epochs or 0 for row in record.trials())
    return (
        f"whole study, {sizes.cifar:,} pictures of 32 pixels, {sizes.trials} trials, {epochs} epochs: {seconds:.0f} s "
        f"(reading and decoding {parts['read']:.0f}, feature cache {caching:.0f}, trials {trials:.0f}, "
        f"finals {finals:.0f}, test {parts['test']:.0f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=4096)
    parser.add_argument("--cifar", type=int, default=50_000)
    parser.add_argument("--trials", type=int, default=10)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_flush_denormal(True)  # as workers do
    if torch.cuda.is_available():
        device = torch.device("cuda")
        sizes = Sizes(options.pictures, 64, 224, 4, 100, options.cifar, options.trials)
    else:
        device = torch.device("cpu")
        sizes = Sizes(64, 10, 32, 2, 1, 100, 1)
    with tempfile.TemporaryDirectory() as made:
        os.environ["AUTOTUNE_CACHE"] = str(Path(made) / "cache")
        print(machine.line(f"{sizes.pictures} pictures, {sizes.epochs - 1} epochs"))
        if device.type != "cuda":
            print("not measured: no GPU (the code was run once with tiny sizes on the CPU)")
        print(f"{sizes.pixels} pixels, batches of {BATCH_SIZE}; pictures per second")
        print(f"{'backbone':20} {'depth':>5} {'source':>8} {'autotune':>9} {'bare':>9} {'share':>6}")
        for row in rates(sizes, Path(made), device):
            share = f"{row.own / row.bare:6.2f}" if device.type == "cuda" else "     -"
            print(f"{row.backbone:20} {row.depth:5} {row.source:>8} {row.own:9.0f} {row.bare:9.0f} {share}", flush=True)
        print(whole_study(sizes, Path(made), device))


if __name__ == "__main__":
    main()
