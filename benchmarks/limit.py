"""Compare the time of a whole study with the work that every implementation has to do.

    python benchmarks/limit.py PHOTOS [--trials 50]

Runs a study with default settings and an empty cache. Then times the unavoidable work in bare loops: decoding and
resizing each picture once, computing the frozen stages once for every view that a trial used, and for each trial the
training steps and evaluations of its unfrozen stages and head for its number of epochs, on random data in memory. Also
measures the overhead of a trial on top of this work.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bare
import machine
import numpy as np
import torch
from PIL import Image

from autotune.cache.features import BATCH
from autotune.cli.live.console import PlainConsole
from autotune.data.split import TEST, TRAIN, VALIDATION
from autotune.study.reopen import reopen_trial
from autotune.study.request import Resources
from autotune.study.storage.record import open_record
from autotune.study.storage.rows import FAILED, ProbeRow, TrialRow
from autotune.training.batches import CLEAN_BATCH, views_up_to
from autotune.training.context import LoadedBackbones, TrialContext
from autotune.training.malloc import keep_freed_memory
from autotune.training.params import Params

STEPS, FORWARDS = 20, 20
TARGET, TARGET_TRIAL, TARGET_EPOCH = 0.6, 0.2, 0.02
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Done:
    """A finished study, read from its record. seconds: of the process. taken: seconds per phase."""

    backbones: LoadedBackbones
    trials: list[TrialRow]
    probes: list[ProbeRow]
    files: dict[str, list[Path]]
    taken: Mapping[str, float]
    seconds: float

    @property
    def context(self) -> TrialContext:
        return self.backbones.context

    @property
    def arms(self) -> list[tuple[str, int]]:
        """Return each backbone and picture size that was used by a probe or a trial."""
        tried = {(row.params.backbone, row.params.pixels) for row in self.trials}
        return sorted(tried | {(row.backbone, row.pixels) for row in self.probes})


def run(folder: Path, photos: Path, trials: int) -> Done:
    """Run the default study with an empty cache."""
    seconds = machine.search(
        folder, folder / "cache", photos, "--study", "limit", "--trials", str(trials), "--device", "cpu"
    )
    study = folder / "studies" / "limit"
    with open_record(study) as record:
        found: Any = {}
        numbers = {row.params.backbone: row.number for row in record.trials() if row.checkpoint}
        for name, number in numbers.items():
            one = reopen_trial(study, record, Resources(device="cpu"), PlainConsole(quiet=True), number)
            found[name] = one.context.backbones[name]  # reopen_trial loads the backbone of one trial only
        context = replace(one.context, backbones=found)
        trials_done = [row for row in record.trials() if row.state != FAILED]
        files = {part: [one.root / p.path for p in one.parts.part(part)] for part in (TRAIN, VALIDATION, TEST)}
        return Done(LoadedBackbones(context), trials_done, record.probes(), files, record.facts().seconds, seconds)


# Unavoidable work


def decode_seconds(files: Sequence[Path], sizes: Sequence[int]) -> float:
    """Time opening each picture and resizing its centre to each size, on all threads."""

    def squares(file: Path) -> list[np.ndarray]:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        return [np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box)) for size in sizes]

    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(squares, files):
            pass
    return time.perf_counter() - start


def forward_seconds(done: Done, name: str, size: int) -> float:
    """Return the seconds per picture of all stages of a backbone, in batches of the feature cache's size."""
    chain = done.backbones.chain(name).to(memory_format=torch.channels_last).eval()
    return bare.forward_seconds(chain, bare.below(chain, 0, BATCH, size, CPU), FORWARDS) / BATCH


def cache_seconds(done: Done) -> float:
    """Return the seconds to run the training views used by trials, and the validation set, through all stages once."""
    context, seconds = done.context, 0.0
    n_train, n_validation = (len(set(part.digests)) for part in (context.train, context.validation))
    for name, size in done.arms:
        if context.backbones[name][0].traits.from_scratch:
            continue
        mine = [row.params for row in done.trials if row.params.backbone == name]
        views = max((len(views_up_to(p.augment)) for p in mine if p.pixels == size), default=1)
        seconds += (n_train * views + n_validation) * forward_seconds(done, name, size)
    return seconds


def test_seconds(done: Done) -> float:
    """Return the seconds to decode the test pictures and run them through the winner once."""
    best = done.trials[0].params
    files = done.files[TEST]
    forward = forward_seconds(done, best.backbone, best.pixels)
    return decode_seconds(files, [best.pixels]) + len(files) * forward


class Tails:
    """Times of the unfrozen stages and head: per training step and per evaluated picture, each kind timed once."""

    def __init__(self, done: Done) -> None:
        self._done = done
        self._known: dict[tuple[Any, ...], tuple[float, float]] = {}

    def trial(self, row: TrialRow) -> float:
        """Return the seconds of a trial's training steps and evaluations, for its number of epochs."""
        context = self._done.context
        step, clean = self._timed(row.params)
        n_clean = len(context.validation) + len(context.gap_sample)
        return float((row.epochs or 0) * (len(context.train) / row.params.batch_size * step + n_clean * clean))

    def _timed(self, params: Params) -> tuple[float, float]:
        kind = params.backbone, params.pixels, params.depth, params.batch_size, params.optimizer
        if kind not in self._known:
            name, pixels, depth, batch_size, optimizer = kind
            context, chain = self._done.context, self._done.backbones.chain(name)
            features = bare.below(chain, len(chain), 1, pixels, CPU).shape[1]
            traits = context.backbones[name][0].traits
            tail = bare.Tail(chain, depth, features, context.classes, optimizer, traits, CPU)
            x = bare.below(chain, len(chain) - depth, max(batch_size, CLEAN_BATCH), pixels, CPU)
            step = tail.step_seconds(x[: min(batch_size, len(context.train))], STEPS)
            n_clean = min(CLEAN_BATCH, len(context.validation))
            self._known[kind] = step, tail.clean_seconds(x[:n_clean], 5) / n_clean
        return self._known[kind]


# Output


def trained_seconds(row: TrialRow) -> float:
    return (row.seconds or 0.0) - (row.cache_seconds or 0.0)


def parts(done: Done, tails: Tails) -> list[tuple[str, float, float]]:
    """Return the parts of a study with their unavoidable and actual seconds."""
    taken, trials = done.taken, done.trials
    cached = sum(row.cache_seconds or 0.0 for row in trials) + sum(row.cache_seconds for row in done.probes)
    fitted = sum(row.seconds for row in done.probes)
    trained = sum(trained_seconds(row) for row in trials)
    rest = done.seconds - taken["read"] - cached - fitted - trained - taken["test"]
    files = done.files[TRAIN] + done.files[VALIDATION]
    return [
        ("read, decode", decode_seconds(files, sorted({size for _, size in done.arms})), taken["read"]),
        ("feature cache", cache_seconds(done), cached),
        ("probe's fit", 0.0, fitted),
        ("trials", sum(tails.trial(row) for row in trials), trained),
        ("test", test_seconds(done), taken["test"]),
        ("start, search, other", 0.0, rest),
    ]


def overhead(done: Done, tails: Tails) -> None:
    """Print the overhead of trials, compared with the target of 0.2 s plus 20 ms per epoch."""
    extra = np.array([trained_seconds(row) - tails.trial(row) for row in done.trials])
    epochs = np.array([row.epochs for row in done.trials], float)
    allowed = TARGET_TRIAL + TARGET_EPOCH * epochs
    heads = extra[[row.params.depth == 0 for row in done.trials]]
    print(f"overhead per trial, s: median {np.median(extra):.2f}, mean {extra.mean():.2f}", end="")
    print(f"; head only {np.median(heads):.2f} (n = {len(heads)})" if len(heads) else "")
    words = f"{TARGET_TRIAL} s + {1000 * TARGET_EPOCH:.0f} ms per epoch, {epochs.mean():.1f} epochs on average"
    print(f"mean overhead over its target ({words}): {machine.verdict(extra.mean() / allowed.mean(), 1.0, False)}")
    print(f"trials within the target: {int((extra <= allowed).sum())} of {len(extra)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--trials", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        os.environ["AUTOTUNE_CACHE"] = str(Path(made) / "cache")
        done = run(Path(made), options.photos, options.trials)
        keep_freed_memory()
        torch.set_num_threads(done.context.threads)
        torch.set_flush_denormal(True)
        tails = Tails(done)
        rows = parts(done, tails)
    counts = ", ".join(f"{len(files)} {part}" for part, files in done.files.items())
    print(machine.line(f"{len(done.trials)} trials"))
    print(f"{counts} pictures; {', '.join(f'{name} at {size} pixels' for name, size in done.arms)}")
    print(f"{'part':24} {'unavoidable s':>13} {'actual s':>9} {'ratio':>6}")
    whole = ("whole process", sum(row[1] for row in rows), done.seconds)
    for name, least, taken in (*rows, whole):
        print(f"{name:24} {least:13.1f} {taken:9.1f} {least / taken if taken > 0 else float('nan'):6.2f}")
    print(f"unavoidable over actual: {machine.verdict(whole[1] / whole[2], TARGET)}")
    overhead(done, tails)


if __name__ == "__main__":
    main()
