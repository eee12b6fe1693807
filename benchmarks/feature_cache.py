"""Compare training on cached features with fresh augmentation in every epoch, for several numbers of views.

    python benchmarks/feature_cache.py [--table] KEEP.jsonl PHOTOS... [digits]

For each folder (`digits`: the built-in sample), seed and depth, the same Params are trained from the same pictures,
head and order: with the default feature cache (V = 4 views), with fresh augmentation, with other V, and with trained
BatchNorm statistics. The training set is small, which leaves at least 300 pictures to score. Results are appended to
KEEP.jsonl; a second run measures only missing ones. Then the tables are printed; with --table, of existing results.
"""

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import line
from scipy import stats

from autotune.backbones.registry import discover
from autotune.backbones.weights import find_weights, load_stages
from autotune.cache import features
from autotune.cache.features import FrozenPrefix, channels_last
from autotune.cache.pixels import fill_pixels, pixel_rows
from autotune.data import datasets
from autotune.data.augment import Invariances
from autotune.data.catalog import read_catalog
from autotune.files import cache_folder
from autotune.training import batches, network
from autotune.training.batches import LabelledPictures
from autotune.training.context import LoadedBackbones, TrialContext
from autotune.training.lightning.trainer import quiet_lightning
from autotune.training.malloc import keep_freed_memory
from autotune.training.metrics import predicted_classes
from autotune.training.params import Params
from autotune.training.probe import probe_file_name
from autotune.training.restore import network_from_checkpoint
from autotune.training.trial import run_probe, run_trial

NAME, SIZE, EPOCHS, STRENGTH = "efficientnet_lite0", 128, 8, 1.0
SEEDS, DEPTHS = range(5), (0, 2, 4)
VIEWS, VIEW_SEEDS = (1, 8), range(1)  # few draws, which is enough to choose V
N_TRAIN, N_VALIDATION, N_SCORED = 200, 50, 300
CACHED, FRESH, STATISTICS = "bank", "fresh", "bank, training BatchNorm"  # as stored in KEEP.jsonl
ENTRY = discover().find(NAME)
WEIGHTS = find_weights(ENTRY)
CHAIN = load_stages(ENTRY, WEIGHTS).eval()
STAGES = len(CHAIN)


class NullReporter:
    """A reporter that ignores everything."""

    def epoch(self, _: object) -> None: ...
    def check_time(self) -> None: ...
    def cache_progress(self, *_: int) -> None: ...


@dataclass(frozen=True)
class Photos:
    """One folder's pictures without duplicates, and their float32 features for each depth."""

    name: str
    digests: tuple[str, ...]
    labels: tuple[int, ...]
    flips: str
    exact: dict[int, torch.Tensor]


def opened(folder: str) -> Photos:
    root = datasets.write_digits(cache_folder()) if folder == "digits" else Path(folder)
    catalog = read_catalog(root)
    once = {picture.digest: picture for picture in catalog.pictures}
    store = pixel_rows(SIZE, ENTRY.traits.interpolation)
    fill_pixels(store, root, list(once.values()), ENTRY.traits.interpolation, lambda *_: None)
    places = store.places(list(once))
    kept: dict[int, list[torch.Tensor]] = defaultdict(list)
    entry = FrozenPrefix(torch.nn.Sequential(), ENTRY.traits, Invariances())
    with torch.no_grad():
        for first in range(0, len(places), 32):
            x = entry([torch.from_numpy(store.take(places[first : first + 32]))])
            for number, stage in enumerate(CHAIN, 1):
                x = stage(x)
                if STAGES - number in DEPTHS:
                    kept[STAGES - number].append(x.clone())
    numbers = {label: number for number, label in enumerate(catalog.classes)}
    labels = tuple(numbers[picture.label] for picture in once.values())
    flips = "none" if root == datasets.digits_folder(cache_folder()) else "horizontal"
    return Photos(root.name, tuple(once), labels, flips, {depth: torch.cat(rows) for depth, rows in kept.items()})


def drawn(photos: Photos, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw positions for training, validation and scoring, stratified by class."""
    rng = np.random.default_rng(seed)
    n_train = min(N_TRAIN, len(photos.labels) - N_SCORED - N_VALIDATION)
    labels = np.array(photos.labels)
    order = rng.permutation(len(labels))
    # Evenly spaced positions per class give a stratified draw.
    turn = np.zeros(len(labels))
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        turn[mine] = (np.arange(len(mine)) + rng.random()) / len(mine)
    by_turn = np.argsort(turn, kind="stable")
    return tuple(np.split(by_turn, [n_train, n_train + N_VALIDATION]))  # type: ignore[return-value]


def context(photos: Photos, parts: tuple[np.ndarray, ...], seed: int, kind: str) -> TrialContext:
    def labelled(positions: np.ndarray) -> LabelledPictures:
        return LabelledPictures(tuple(photos.digests[i] for i in positions), tuple(photos.labels[i] for i in positions))

    cuts = () if kind == FRESH else tuple(sorted(STAGES - depth for depth in DEPTHS))
    return TrialContext(
        classes=max(photos.labels) + 1, train=labelled(parts[0]), validation=labelled(parts[1]),
        gap_sample=labelled(parts[0][:N_VALIDATION]), folds=(1,) * len(parts[0]) + (0,) * len(parts[1]),
        folds_by_picture=(),
        backbones={NAME: (ENTRY, WEIGHTS)}, cuts={(NAME, SIZE): cuts},
        resident_bytes=0, invariances=Invariances(photos.flips), metric="accuracy", epochs=EPOCHS, cycle_epochs=EPOCHS,
        patience=EPOCHS, gap=1.0, seed=seed, device="cpu", threads=torch.get_num_threads(),
    )  # fmt: skip


def params(depth: int) -> Params:
    return Params(
        backbone=NAME, depth=depth, pixels=SIZE, lr_low=1e-5, lr_high=3e-4 if depth else 3e-3, cycle="one-cycle",
        augment=STRENGTH, class_weight=0.0, optimizer="adamw", batch_size=32, weight_decay=1e-2, dropout=0.2,
        label_smoothing=0.0,
    )  # fmt: skip


def count_correct(photos: Photos, net: Any, depth: int, scored: np.ndarray) -> tuple[int, int]:
    """Return the number of correct predictions, and of predictions changed by half-precision rows."""
    rows = photos.exact[depth][scored]
    with torch.no_grad():
        predictions = [predicted_classes(net.head(net.tail(channels_last(x)))) for x in (rows, rows.half().float())]
    exact, rounded = predictions
    return int((exact == np.array(photos.labels)[scored]).sum()), int((exact != rounded).sum())


def trained(photos: Photos, seed: int, depth: int, kind: str, n_views: int) -> dict[str, Any]:
    parts = drawn(photos, seed)
    features.N_VIEWS = n_views
    batches.N_VIEWS = n_views  # type: ignore[attr-defined]
    assemble: Any = network.assemble_network  # type: ignore[attr-defined]
    if kind == STATISTICS:
        # The last argument is whether the network trains from scratch.
        network.assemble_network = lambda *given: assemble(*given[:-1], True)  # type: ignore[attr-defined]
    try:
        with tempfile.TemporaryDirectory() as place, quiet_lightning():
            trial_context = context(photos, parts, seed, kind)
            files = {}
            if depth:
                last_stage = LoadedBackbones(replace(trial_context, cuts={(NAME, SIZE): (STAGES,)}))
                files = {probe_file_name(NAME, SIZE): run_probe(last_stage, NAME, SIZE, NullReporter()).head}
            backbones = LoadedBackbones(trial_context)
            one = run_trial(backbones, 0, params(depth), files, Path(place), NullReporter())
            net = network_from_checkpoint(backbones, params(depth), one.checkpoint or b"", Path(place)).net
    finally:
        network.assemble_network = assemble  # type: ignore[attr-defined]
    hits, changed = count_correct(photos, net, depth, parts[2])
    return {"right": hits, "changed": changed, "n": len(parts[2]), "seconds": round(one.seconds, 2)}


def jobs(photos: list[Photos]) -> Iterator[tuple[Photos, int, int, str, int]]:
    for seed in SEEDS:
        for one in photos:
            for depth in DEPTHS:
                yield one, seed, depth, CACHED, 4
                yield one, seed, depth, FRESH, 4
    for seed in SEEDS:
        for one in photos:
            for depth in DEPTHS[1:]:
                yield one, seed, depth, STATISTICS, 4
    for seed in VIEW_SEEDS:
        for one in photos:
            for views in VIEWS:
                for depth in DEPTHS:
                    yield one, seed, depth, CACHED, views


def key(row: dict[str, Any]) -> tuple[object, ...]:
    return row["set"], row["seed"], row["depth"], row["kind"], row["views"]


def measure(file: Path, photos: list[Photos]) -> dict[tuple[object, ...], dict[str, Any]]:
    done = kept(file)
    with file.open("a") as out:
        for one, seed, depth, kind, views in jobs(photos):
            row = {"set": one.name, "seed": seed, "depth": depth, "kind": kind, "views": views}
            if key(row) not in done:
                row |= trained(one, seed, depth, kind, views)
                done[key(row)] = row
                print(json.dumps(row), file=out, flush=True)
    return done


class Table:
    """Differences in points, paired by set, seed and depth."""

    def __init__(self, rows: dict[tuple[object, ...], dict[str, Any]], names: list[str]) -> None:
        self.rows, self.names = rows, names

    def score(self, name: str, seed: int, depth: int, kind: str, views: int = 4) -> float:
        row = self.rows[name, seed, depth, kind, views]
        return 100 * float(row["right"] / row["n"])

    def show(self, title: str, one: tuple[str, int], other: tuple[str, int], depths: tuple[int, ...],
             seeds: range = SEEDS) -> None:  # fmt: skip
        """Print both scores and their difference per set and depth, then the mean over all with a 95 % t interval."""
        print(f"\n{title}\n{'pictures':12}{'depth':>6}{'first':>8}{'second':>8}{'difference':>12}")
        whole: list[float] = []
        worst = float("inf")
        wanted = [(s, d, *kind) for s in seeds for d in depths for kind in (one, other)]
        measured = [name for name in self.names if all((name, *rest) in self.rows for rest in wanted)]
        if len(measured) < len(self.names):
            print(f"not measured: {', '.join(name for name in self.names if name not in measured)}")
        for name in measured:
            each = np.array(
                [[(self.score(name, s, d, *one), self.score(name, s, d, *other)) for d in depths] for s in seeds]
            )
            for i, depth in enumerate(depths):
                a, b = each[:, i].mean(0)
                print(f"{name:12}{depth:6}{a:8.1f}{b:8.1f}{a - b:+12.2f}")
            draws = (each[..., 0] - each[..., 1]).mean(1)  # depths share pictures: one observation
            whole += draws.tolist()
            worst = min(worst, float(draws.mean()))
            print(f"{name:12}{'all':>6}{each[..., 0].mean():8.1f}{each[..., 1].mean():8.1f}{draws.mean():+12.2f}")
        if len(whole) < 2:
            return
        low, high = stats.t.interval(0.95, len(whole) - 1, np.mean(whole), stats.sem(whole))
        print(f"Mean {np.mean(whole):+.2f} points, 95 % interval {low:+.2f} to {high:+.2f} (n = {len(whole)} draws); "
              f"worst set {worst:+.2f}")  # fmt: skip


def kept(file: Path) -> dict[tuple[object, ...], dict[str, Any]]:
    lines = file.read_text().splitlines() if file.exists() else []
    return {key(row): row for row in map(json.loads, lines)}


def main() -> None:
    keep_freed_memory()
    is_table = sys.argv[1] == "--table"  # of existing results, also while others are measured
    file, *folders = sys.argv[1 + is_table :]
    photos = [opened(folder) for folder in folders]
    rows = kept(Path(file)) if is_table else measure(Path(file), photos)
    print(line(f"{len(SEEDS)} seeds"))
    print(f"{NAME} at {SIZE} pixels, {EPOCHS} epochs, augmentation {STRENGTH}; accuracy in %, differences in points")
    for one in photos:
        parts = drawn(one, 0)
        print(f"{one.name}: {len(parts[0])} training, {len(parts[1])} validation, {len(parts[2])} scored pictures")
    table = Table(rows, [one.name for one in photos])
    real = Table(rows, [one.name for one in photos if one.flips != "none"])
    for some, what in ((real, "photos"), (table, "photos and digits")):
        title = f"Cached features of 4 views (first), fresh augmentation every epoch (second), {what}"
        some.show(title, (CACHED, 4), (FRESH, 4), DEPTHS)
    for views in VIEWS:
        title = f"Cached features of {views} views (first), fresh augmentation (second), seed 0"
        table.show(title, (CACHED, views), (FRESH, 4), DEPTHS, VIEW_SEEDS)
    title = "Cached features of 4 views (first), fresh augmentation (second), seed 0"
    table.show(title, (CACHED, 4), (FRESH, 4), DEPTHS, VIEW_SEEDS)
    title = "Frozen BatchNorm statistics (first), trained BatchNorm statistics (second)"
    table.show(title, (CACHED, 4), (STATISTICS, 4), DEPTHS[1:])
    mine = [row for found, row in rows.items() if found[0] in table.names]
    changed, n = (sum(row[what] for row in mine) for what in ("changed", "n"))
    print(f"\nHalf precision: rounding the features changes {changed} of {n} predictions of {len(mine)} networks.")


if __name__ == "__main__":
    main()
