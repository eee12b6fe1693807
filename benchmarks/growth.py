"""Measure the time per picture and the memory of a study, from 1,000 to 100,000 pictures at 224 pixels.

    python benchmarks/growth.py [--pictures 1000,10000,100000]
    python benchmarks/growth.py --driver 1000000

The pictures are generated: real keys, and blank rows in sparse files (15 GB of pixels by file size). Each size runs in
a separate process: splitting the pictures, opening the pixel cache, one real trial of a head on cached features, and
one epoch of shuffled and freshly augmented batches from the pixel cache. Resident memory includes pages of mapped
files, which the system can reclaim; private memory is shown separately. The speed of the first pass depends on how fast
the machine fills its file cache, so only later passes have a target. The other costs per epoch have one too; the few
microseconds of the split, which occur once per study, do not.

`--driver` measures only what the driver does with the list of pictures: the split, writing and reading the manifest,
and making and packing the context that each worker receives. Reading the pictures themselves is not included.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import machine
import made_up
import torch

from autotune.cache.pixels import pixel_rows
from autotune.data.split import read_manifest, split_catalog, write_manifest
from autotune.training.batches import PixelSource, TrainBatches
from autotune.training.context import LoadedBackbones
from autotune.training.lightning.trainer import quiet_lightning
from autotune.training.params import Params
from autotune.training.trial import run_trial

PIXELS, BACKBONE, VIEWS, EPOCHS = 224, "efficientnet_lite0", 5, 2
TARGET_GB, TARGET_FLAT = 6.0, 1.2
COSTS = {"split": "split", "open": "open", "trial": "trial, per epoch", "first": "first pass", "pass": "later pass"}
JUDGED = ("open", "trial", "pass")


class Watch(threading.Thread):
    """Samples the private memory of the process every 0.1 s and keeps the maximum, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        status = Path("/proc/self/status")
        while status.is_file():
            own = next((row for row in status.read_text().splitlines() if row.startswith("RssAnon")), "RssAnon 0")
            self.most = max(self.most, 1024 * int(own.split()[1]))
            time.sleep(0.1)


def measured(n: int, folder: Path) -> dict[str, float]:
    """Return the microseconds per picture of each step, and the peak bytes."""
    watch = Watch()
    watch.start()
    catalog = made_up.catalog(n, folder)
    start = time.perf_counter()
    parts = split_catalog(catalog, seed=0)
    split = time.perf_counter() - start
    flags = {"backbone": BACKBONE, "pixels": PIXELS, "depth": 0, "epochs": EPOCHS}
    context = made_up.context(parts, "cpu", flags)
    torch.set_num_threads(context.threads)
    how = context.backbones[BACKBONE][0].traits.interpolation
    keys = [picture.digest for picture in catalog.pictures]
    made_up.write_blank(pixel_rows(PIXELS, how), keys)
    backbones = LoadedBackbones(context)
    cache = backbones.feature_cache(BACKBONE, PIXELS)
    for view in range(VIEWS):
        made_up.write_blank(cache.rows(cache.cuts[-1], view), keys)
    start = time.perf_counter()
    store = pixel_rows(PIXELS, how)
    opened = time.perf_counter() - start
    trained = trial_seconds(backbones, folder)
    batches = TrainBatches(
        PixelSource(backbones.resident.held([(store, context.train.digests)])[0], context.train.digests, context.seed),
        context.train.labels,
        64,
        0.5,
        seed=0,
    )
    passes = []
    for _ in range(2):
        start = time.perf_counter()
        read = sum(len(batch[-1]) for batch in batches)
        passes.append((time.perf_counter() - start) / read)
    each = {
        "split": split / n,
        "open": opened / n,
        "trial": trained / EPOCHS / n,
        "first": passes[0],
        "pass": passes[1],
    }
    return {
        **{name: 1e6 * seconds for name, seconds in each.items()},
        "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "own": watch.most,
        "disk": sum(512 * file.stat().st_blocks for file in folder.rglob("*.bin")),
    }


def driver_cost(n: int, folder: Path) -> None:
    """Print seconds of each step of the driver, sizes and the peak of the private memory."""
    catalog = made_up.catalog(n, folder)
    watch = Watch()
    watch.start()
    with timed("split"):
        parts = split_catalog(catalog, seed=0)
    with timed("manifest written"):
        write_manifest(parts, folder / "manifest.csv")
    with timed("manifest read"):
        read_manifest(folder / "manifest.csv")
    with timed("plan and context"):
        context = made_up.context(parts, "cpu", {"backbone": BACKBONE, "pixels": PIXELS, "depth": 0, "epochs": EPOCHS})
    with timed("context packed"):
        packed = pickle.dumps(context)
    time.sleep(0.2)  # until the memory is sampled again
    print(f"{'manifest':18} {(folder / 'manifest.csv').stat().st_size / 1e6:8.1f} MB")
    print(f"{'context':18} {len(packed) / 1e6:8.1f} MB")
    print(f"{'own memory':18} {watch.most / 1e9:8.2f} GB")


@contextmanager
def timed(title: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    print(f"{title:18} {time.perf_counter() - start:8.1f} s")


def trial_seconds(backbones: LoadedBackbones, scratch: Path) -> float:
    """Run one real trial of a head, the first one in this process."""
    params = Params(
        backbone=BACKBONE, depth=0, pixels=PIXELS, lr_low=1e-5, lr_high=1e-3, cycle="triangular", augment=1.0,
        class_weight=0.0, optimizer="adamw", batch_size=64, weight_decay=0.01, dropout=0.2, label_smoothing=0.0,
    )  # fmt: skip
    with quiet_lightning():
        return run_trial(backbones, 0, params, {}, scratch, made_up.Reporter()).seconds


def in_a_process(n: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", str(n), folder]
        around = {**os.environ, "AUTOTUNE_CACHE": str(Path(folder) / "cache")}
        done = subprocess.run(command, env=around, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(rows: dict[int, dict[str, float]]) -> None:
    print(f"{'pictures':>9} " + " ".join(f"{f'{title}, us':>19}" for title in COSTS.values()), end="")
    print(f" {'peak GB':>8} {'private GB':>10} {'disk GB':>8}")
    first = next(iter(rows.values()))
    for n, row in rows.items():
        costs = " ".join(f"{row[name]:11.1f} ({row[name] / first[name]:4.2f}x)" for name in COSTS)
        print(f"{n:9,} {costs} {row['peak'] / 1e9:8.2f} {row['own'] / 1e9:10.2f} {row['disk'] / 1e9:8.3f}")
    # The smallest size also includes the fixed costs of a study, so both ratios are shown.
    *_, before, last = (first, *rows.values())
    for name, title in ((name, COSTS[name]) for name in JUDGED):
        print(f"{title}: relative to the smallest size {machine.verdict(last[name] / first[name], TARGET_FLAT, False)}")
        print(f"{title}: relative to the row above {machine.verdict(last[name] / before[name], TARGET_FLAT, False)}")
    print(f"peak resident memory, GB: {machine.verdict(last['peak'] / 1e9, TARGET_GB, False)}")
    print(f"private memory, GB: {machine.verdict(last['own'] / 1e9, TARGET_GB, False)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pictures", type=machine.numbers, default=(1_000, 10_000, 100_000))
    parser.add_argument("--driver", type=int, metavar="N", help="measure only the driver's own work")
    parser.add_argument("--one", nargs=2, metavar=("N", "FOLDER"), help="measure one size, in this process")
    options: Any = parser.parse_args()
    if options.one:
        warnings.filterwarnings("ignore")
        print(json.dumps(measured(int(options.one[0]), Path(options.one[1]))))
        return
    if options.driver:
        print(machine.line(f"1, {options.driver:,} pictures"))
        with tempfile.TemporaryDirectory() as folder:
            driver_cost(options.driver, Path(folder))
        return
    rows = {n: in_a_process(n) for n in options.pictures}
    print(machine.line("1 per size"))
    print(f"{PIXELS} pixels, {BACKBONE}, {EPOCHS} epochs of a head on {VIEWS} views; microseconds per picture")
    show(rows)


if __name__ == "__main__":
    main()
