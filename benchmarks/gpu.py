"""Measure what autotune makes of a GPU, compared with bare loops and with the targets, in under six minutes.

    python benchmarks/gpu.py [--tiny] [--only agree,fill,...] [--trials 12] [--seconds 330]

agree     feature cache, trained weights and answers: GPU against CPU, and the same trial twice, bit for bit
fill      filling the feature cache, against a bare forward pass in the same precision; target 0.8
train     training, epochs with their evaluation, against a bare loop of steps; targets 0.95, and 0.7 for the head alone
study     a whole search; target: GPU busy 0.7 of the time
workers   searches of small trials, trials per second of 3 workers against 1; target 1.5 times
ceiling   bare forward passes by batch size and precision
launches  calls to CUDA per step, and lines that wait for the GPU
memory    what trials leave allocated, and their seconds beside the epochs
decode    pictures per second from file to square, by number of threads

Networks have random weights, and pictures are made up. This process is set up by the main loop of a worker. Parts run
in this order, each in spite of a failure of another; none begins after --seconds. Rows are also written to
$OUT/gpu.jsonl if OUT is set. Without a GPU the same code runs with tiny sizes, and nothing is measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from gpu_bench import CUDA, DEVICE, NOT_MEASURED, Bench, Busy, Table, become_worker, settings
from gpu_parts import agree, ceiling, fill, launches, memory, train
from PIL import Image

from autotune.data.catalog import read_catalog
from autotune.data.decode import crop_square
from autotune.data.near_duplicates import thumbnail
from autotune.data.picture import pixel_digest, read_picture
from autotune.garbage import collected_less_often
from autotune.study.storage.record import open_record
from autotune.study.storage.rows import FAILED, TrialRow

BUSY, WORKERS = 0.7, 1.5  # targets
STUDY_SECONDS, SMALL_SECONDS = 80, 45  # after which a study is killed
SMALL_TRIALS = 24
WORKER_BACKBONE = "resnet18"  # of the task that sets up this process


def photos(n: int, width: int, folder: Path) -> Path:
    """Write n JPEGs in ten classes: random colours, smooth, with a little noise, and a tint for each class."""
    tints = np.random.default_rng(0).integers(0, 256, (10, 1, 1, 3))

    def write(number: int) -> None:
        rng = np.random.default_rng(number)
        coarse = (0.7 * rng.integers(0, 256, (9, 12, 3)) + 0.3 * tints[number % 10]).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize((width, width * 3 // 4), Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth, np.int16) + rng.integers(-8, 9, (1, width, 3), np.int16)
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        image.save(folder / str(number % 10) / f"{number}.jpg", quality=88)

    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(write, range(n)):
            pass
    return folder


# Whole studies


@dataclass(frozen=True)
class Search:
    """A search on made-up photos. options: of the command line. seconds: after which it is killed."""

    bench: Bench
    folder: Path
    name: str
    workers: int
    seconds: float

    def run(self, trials: int, config: Mapping[str, Any]) -> tuple[float, str, Busy]:
        """Run it; return its seconds, how it ended, and how busy the GPU was."""
        file = self.bench.root / f"{self.name}.toml"
        space = {"backbone": self.bench.names[0], **config.get("space", {})}
        tables = {key: value for key, value in config.items() if key != "space"}, space
        lines = ["\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) for table in tables]
        file.write_text(f"{lines[0]}\n[space]\n{lines[1]}\n")
        command = [
            sys.executable, "-m", "autotune", "search", str(self.folder), "--study", self.name, "--config", str(file),
            "--trials", str(trials), "--workers", str(self.workers), "--device", DEVICE.type,
            "--weights", str(self.bench.weights),
        ]  # fmt: skip
        log = self.bench.root / f"{self.name}.log"
        around = {**os.environ, "AUTOTUNE_CACHE": str(self.bench.root / "study-cache")}
        ended = "finished"
        with log.open("w") as out, Busy() as busy:
            start = time.perf_counter()
            try:
                code = subprocess.run(
                    command, cwd=self.bench.root, env=around, stdout=out, stderr=subprocess.STDOUT,
                    timeout=self.seconds, check=False,
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired:
                code, ended = 0, "killed by its time limit"
            seconds = time.perf_counter() - start
        if code:
            raise RuntimeError(f"autotune search failed:\n{log.read_text()[-3000:]}")
        return seconds, ended, busy

    def rows(self) -> tuple[list[TrialRow], dict[str, Any]]:
        """Return its trials, and the seconds of its parts."""
        with open_record(self.bench.root / "studies" / self.name) as record:
            trials, probes, folds = record.trials(), record.probes(), record.folds()
            parts: dict[str, Any] = {key: record.facts().seconds.get(key, 0.0) for key in ("read", "test")}
        parts["cache"] = sum(row.cache_seconds for row in probes)
        parts["cache"] += sum(row.cache_seconds or 0.0 for row in trials) + sum(
            row.cache_seconds or 0.0 for row in folds
        )
        parts["probe"] = sum(row.seconds for row in probes)
        parts["trials"] = sum((row.seconds or 0.0) - (row.cache_seconds or 0.0) for row in trials)
        parts["finals"] = sum((row.seconds or 0.0) - (row.cache_seconds or 0.0) for row in folds)
        return trials, parts

    def trials_per_second(self) -> float:
        """Return the rate from the end of the first trial, one on each worker: until then, workers start."""
        ends = sorted(datetime.fromisoformat(row.finished).timestamp() for row in self.rows()[0] if row.state != FAILED)
        ends = ends[self.workers - 1 :]
        return (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 1 else float("nan")


def study_photos(bench: Bench) -> Path:
    folder = bench.root / "photos"
    return folder if folder.exists() else photos(*((120, 160) if bench.tiny else (2000, 500)), folder)


def study(bench: Bench, n_trials: int) -> None:
    """Run a whole search with an empty cache and the default ranges."""
    tiny = {"epochs": 1, "space": {"pixels": bench.pixels}} if bench.tiny else {}
    search = Search(bench, study_photos(bench), "whole", 1, 600 if bench.tiny else STUDY_SECONDS)
    seconds, ended, busy = search.run(n_trials, tiny)
    trials, parts = search.rows()
    bench.table.row(
        "study", f"{len(trials)} of {n_trials} trials, {ended}", busy.share, BUSY, seconds=seconds, of_which=parts,
        epochs=sum(row.epochs or 0 for row in trials), depths=" ".join(str(row.params.depth) for row in trials),
        failed=sum(row.state == FAILED for row in trials), **busy.facts,
    )  # fmt: skip


def workers(bench: Bench) -> None:
    """Run searches of small trials, which train the head on the clean view and are not pruned."""
    rates = {}
    epochs, n_trials, limit = (1, 5, 600) if bench.tiny else (10, SMALL_TRIALS, SMALL_SECONDS)
    space = {"depth": 0, "augment": 0.0, "pixels": bench.pixels, "batch_size": 32}
    config = {"pruner": "none", "final": "trial", "epochs": epochs, "patience": epochs, "space": space}
    for n_workers in (1, 3):
        search = Search(bench, study_photos(bench), f"small-{n_workers}", n_workers, limit)
        seconds, ended, busy = search.run(n_trials, config)
        trials, parts = search.rows()
        rates[n_workers] = search.trials_per_second()
        bench.table.row(
            "workers", f"{n_workers}: {len(trials)} of {n_trials} trials, {ended}", seconds=seconds, of_which=parts,
            trials_per_s=rates[n_workers], failed=sum(row.state == FAILED for row in trials), **busy.facts,
        )  # fmt: skip
    times = rates[3] / rates[1]
    bench.table.row("workers", "trials per second, 3 workers over 1", times, WORKERS, times=times)


# Decoding


def square_of(file: Path) -> np.ndarray:
    """Read a picture as a search does."""
    image = read_picture(file)
    pixel_digest(image)
    thumbnail(image)
    return crop_square(image, 224, "bilinear")


def decode(bench: Bench) -> None:
    """Time reading, hashing and resizing small and large photos, and reading a whole folder as a search does."""
    cores = os.cpu_count() or 1
    for n, width in ((20, 160), (10, 320)) if bench.tiny else ((1600, 500), (64, 4000)):
        folder = photos(n, width, bench.root / f"photos-{width}")
        files, found = sorted(folder.rglob("*.jpg")), {}
        for threads in sorted({1, min(4, cores), cores}):
            some = files[: max(n * threads // cores, 8)]
            with ThreadPoolExecutor(threads) as pool:
                start = time.perf_counter()
                for _ in pool.map(square_of, some):
                    pass
                found[f"{threads} threads"] = len(some) / (time.perf_counter() - start)
        start = time.perf_counter()
        read_catalog(folder)
        found["catalog"] = n / (time.perf_counter() - start)
        bench.table.row("decode", f"{n} JPEGs, {width} pixels wide", pictures_per_s=found)


def measure(table: Table, root: Path, options: argparse.Namespace) -> None:
    """Run the parts."""
    tiny = options.tiny or not CUDA
    names = (WORKER_BACKBONE,) if tiny else ("resnet50", "vit_b_16")
    with table.guarded("worker", "setting up"):  # if it fails, torch's own settings are measured
        setup = Bench(table, root / "setup", (WORKER_BACKBONE,), 24, 32, tiny=True)
        become_worker(setup.context(WORKER_BACKBONE), WORKER_BACKBONE, 32, root)
    table.row("worker", "settings of the process", **settings())
    sizes = (64, 32, True, 16) if tiny else (options.pictures, 224, False)
    bench = Bench(table, root / "parts", names, *sizes)
    n_trials = 2 if tiny else options.trials
    parts: dict[str, Callable[[Bench], None]] = {
        "agree": agree, "fill": fill, "train": train, "study": partial(study, n_trials=n_trials), "workers": workers,
        "ceiling": ceiling, "launches": launches, "memory": memory, "decode": decode,
    }  # fmt: skip
    for name in options.only.split(",") if options.only else parts:
        if table.seconds > options.seconds:
            table.row(name, f"left out: {options.seconds:.0f} s have passed")
            continue
        before = table.seconds
        gc.collect()  # what earlier parts hold on the GPU
        with table.guarded(name, "part"):
            parts[name](bench)
        print(f"{name:9} took {table.seconds - before:.0f} s", flush=True)
        if CUDA:
            torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to test the code")
    parser.add_argument("--only", help="parts, separated by commas; default: all")
    parser.add_argument("--pictures", type=int, default=2048)
    parser.add_argument("--trials", type=int, default=12, help="of the whole study")
    parser.add_argument("--seconds", type=float, default=330, help="after which no further part begins")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    out = os.environ.get("OUT")
    table = Table(Path(out) / "gpu.jsonl" if out else None)
    print(machine.line("see each row"))
    if not CUDA:
        print(f"{NOT_MEASURED} (the code runs once with tiny sizes on the CPU)")
    with tempfile.TemporaryDirectory() as made:
        os.environ["AUTOTUNE_CACHE"] = str(Path(made) / "cache")
        measure(table, Path(made), options)
    print(f"\n{table.seconds:.0f} s; against the targets:", *(table.targets or ["no row with a target"]), sep="\n")


if __name__ == "__main__":
    with collected_less_often():
        main()
