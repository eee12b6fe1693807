r"""Measure how well a search chooses: its winner against simpler models, on pictures that come later.

    python benchmarks/selection.py PHOTOS... --work WORK --base-command OLD/.venv/bin/autotune \
        --command .venv/bin/autotune [--columns base,finals] [--backbone NAME]
    python benchmarks/selection.py --work WORK --report

For each folder and seed, 40 % of the pictures are the user's, and 60 % come later; a hash of (seed, group) decides, so
near-duplicates stay together. Each column is a model that knows only the user's pictures, judged on all later ones: the
winner of an older version's search (`base`), the first trial of that study (`first`), its linear probe (`probe`),
scikit-learn's logistic regression on the study's training and validation pictures, with a penalty chosen by
cross-validation (`logistic`), and the final model of this version's search (`finals`). Beside that model: the winner's
own network (`trial`), its hyperparameters refitted on the whole pool (`refit`), the average of its networks whether or
not it agrees with them (`soup`), their mean probability (`mean`), and the average for the finalist that is best by the
folds alone (`best`) and for the simplest within one standard error of it (`simplest`). `calibration` compares the
probabilities of the average with those of its networks. A search starts with an empty cache, and its processor seconds
include its workers.

Results are appended to WORK/results.jsonl, and only missing ones are computed. The report compares columns: sets weigh
the same, and an interval comes from resampling the later pictures of each set, all seeds of a picture together. It
contains the chance of the pictures, not that of the search.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import machine
import numpy as np
import torch
from numpy.typing import NDArray
from selection_networks import opened

from autotune.backbones.registry import discover
from autotune.backbones.weights import find_weights, load_stages, read_tensors
from autotune.cache.features import BATCH, FrozenPrefix
from autotune.cache.pixels import read_square
from autotune.data.augment import Invariances
from autotune.data.catalog import read_catalog
from autotune.data.groups import Groups
from autotune.data.split import MANIFEST, TEST, hash_position, read_manifest
from autotune.files import write_whole

USER_SHARE, RESAMPLES, CHUNK = 0.4, 10_000, 500
PENALTIES = np.logspace(-4, 1, 10)  # scikit-learn's C
PAIRS = (
    ("finals", "base"), ("finals", "logistic"), ("base", "first"), ("base", "logistic"), ("logistic", "probe"),
    ("finals", "trial"), ("soup", "refit"), ("soup", "mean"), ("soup", "best"), ("soup", "simplest"),
)  # fmt: skip
SPLIT, RESULTS = "split", "results.jsonl"

Row = dict[str, Any]
Results = dict[tuple[str, int], dict[str, Row]]  # by folder name and seed, then by column
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One folder and seed. user, later: paths of pictures relative to the folder, sorted. programs: by version."""

    photos: Path
    seed: int
    user: Sequence[str]
    later: Sequence[str]
    work: Path
    programs: Mapping[str, Path]
    trials: int
    backbone: str | None = None

    @property
    def place(self) -> Path:
        return self.work / "cells" / f"{self.photos.name}-{self.seed}"

    def link_pictures(self) -> None:
        """Write the folders `user` and `later` of links to the pictures, one folder per class."""
        for part, paths in (("user", self.user), ("later", self.later)):
            for path in paths:
                link = self.place / part / linked(path)
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.is_symlink():
                    link.symlink_to((self.photos / path).resolve())


def label(path: str) -> str:
    return PurePath(path).parent.name


def linked(path: str) -> PurePath:
    """Return where a picture is linked: in its class folder, under a name that says its whole path."""
    return PurePath(label(path), path.replace("/", "--"))


# Commands of another version


def run(cell: Cell, version: str, *words: str | Path) -> tuple[str, float, float]:
    """Run a command in the version's folder; return its output, its processor seconds with workers, and its seconds."""
    place = cell.place / version
    around = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it has its own packages
    around |= {"AUTOTUNE_CACHE": str(place / "cache"), "OMP_WAIT_POLICY": "PASSIVE"}  # other work runs beside it
    start = time.perf_counter()
    with (place / "out").open("w") as out, (place / "err").open("w") as err:
        child = subprocess.Popen([cell.programs[version], *words], cwd=place, env=around, stdout=out, stderr=err)
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds, text = time.perf_counter() - start, (place / "out").read_text()
    if child.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: {text[-1000:]} {(place / 'err').read_text()[-1000:]}")
    return text, used.ru_utime + used.ru_stime, seconds


def searched(cell: Cell, version: str) -> Row:
    """Return the summary and the seconds of a version's search. One that was killed starts anew, to time it whole."""
    file = cell.place / version / "search.json"
    if not file.exists():
        shutil.rmtree(file.parent, ignore_errors=True)
        file.parent.mkdir(parents=True)
        words = ("--trials", str(cell.trials), "--seed", str(cell.seed), "--study", version, "--json")
        backbone = ("--backbone", cell.backbone) if cell.backbone else ()
        text, cpu, wall = run(cell, version, "search", cell.place / "user", *words, *backbone)
        shutil.rmtree(file.parent / "cache", ignore_errors=True)
        write_whole(file, json.dumps({"summary": json.loads(text), "cpu": cpu, "wall": wall}))
    found: Row = json.loads(file.read_text())
    return found


def predicted(cell: Cell, version: str, model: str | Path) -> Row:
    """Judge a study's winner or a bundle on the later pictures."""
    later = cell.place / "later"
    text, _, _ = run(cell, version, "predict", model, later, "--json")
    rows = [json.loads(line) for line in text.splitlines()]
    answers = {PurePath(row["path"]).relative_to(later): row["label"] for row in rows}
    assert len(rows) == len(answers) == len(cell.later), f"{len(rows)} answers for {len(cell.later)} pictures"
    return judged(cell, [answers[linked(path)] for path in cell.later])


def judged(cell: Cell, answers: Sequence[str]) -> Row:
    right = [int(answer == label(path)) for answer, path in zip(answers, cell.later, strict=True)]
    return {"accuracy": float(np.mean(right)), "right": right}


# Heads on frozen features


def features(cell: Cell, backbone: str, pixels: int) -> dict[str, NDArray[np.float32]]:
    """Return the features of all pictures of the folder, by path; computed once for all seeds."""
    file = cell.work / "features" / f"{cell.photos.name}-{backbone.replace(':', '-')}-{pixels}.npz"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        entry, paths = discover().find(backbone), sorted((*cell.user, *cell.later))
        network = FrozenPrefix(load_stages(entry, find_weights(entry)), entry.traits, Invariances())
        found = []
        for first in range(0, len(paths), BATCH):
            batch = [cell.photos / path for path in paths[first : first + BATCH]]
            squares = np.stack([read_square(path, pixels, entry.traits.interpolation) for path in batch])
            found.append(network([torch.from_numpy(squares)]).numpy())
        whole = file.with_suffix(".part.npz")
        np.savez(whole, paths=np.array(paths), rows=np.concatenate(found))
        whole.replace(file)
    kept = np.load(file)
    return dict(zip(kept["paths"].tolist(), kept["rows"], strict=True))


def probed(cell: Cell) -> tuple[str, int]:
    """Return the backbone and the picture size of the study's best probe."""
    best = searched(cell, "base")["summary"]["probes"][0]
    return best["backbone"], best["pixels"]


def known(cell: Cell) -> tuple[list[str], list[str]]:
    """Return the classes of the study, and the paths of its training and validation pictures."""
    pictures = read_manifest(Path(searched(cell, "base")["summary"]["folder"]) / MANIFEST)
    pool = {PurePath(picture.path) for picture in pictures if picture.part != TEST}
    return sorted({picture.label for picture in pictures}), [path for path in cell.user if linked(path) in pool]


# Columns


def base(cell: Cell) -> Row:
    return winner(cell, "base")


def winner(cell: Cell, version: str) -> Row:
    """Judge the winner of a version's search, and note what the search claims and takes."""
    found = searched(cell, version)
    test = found["summary"]["test"]
    claimed = {"accuracy": test["accuracy"], "interval": test["interval"], "n": test["n"]}
    return {**predicted(cell, version, version), "claimed": claimed, "cpu": found["cpu"], "wall": found["wall"]}


def first(cell: Cell) -> Row:
    searched(cell, "base")
    bundle = cell.place / "base" / "first"
    shutil.rmtree(bundle, ignore_errors=True)
    run(cell, "base", "export", "base", bundle, "--trial", "0", "--quiet")
    return predicted(cell, "base", bundle)


def probe(cell: Cell) -> Row:
    (backbone, pixels), (classes, _) = probed(cell), known(cell)
    folder = Path(searched(cell, "base")["summary"]["folder"]) / "checkpoints"
    head = read_tensors(str(folder / f"probe-{backbone.replace(':', '-')}-{pixels}.safetensors"))
    rows = features(cell, backbone, pixels)
    logits = np.stack([rows[path] for path in cell.later]) @ head["weight"].numpy().T + head["bias"].numpy()  # (N, C)
    return judged(cell, [classes[i] for i in logits.argmax(1)])


def logistic(cell: Cell) -> Row:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, (_, pool) = features(cell, *probed(cell)), known(cell)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=cell.seed)
    search = GridSearchCV(model, {"logisticregression__C": PENALTIES}, cv=folds)
    search.fit(np.stack([rows[path] for path in pool]), [label(path) for path in pool])
    answers = search.predict(np.stack([rows[path] for path in cell.later])).tolist()
    return {**judged(cell, answers), **search.best_params_, "validation": float(search.best_score_), "n": len(pool)}


def finals(cell: Cell) -> Row:
    return winner(cell, "finals")


def other_model(name: str) -> Callable[[Cell], Row]:
    """Return a column of another final model of the same study: a method of FinishedStudy."""

    def column(cell: Cell) -> Row:
        folder = Path(searched(cell, "finals")["summary"]["folder"])
        later = [cell.photos / path for path in cell.later]
        with opened(folder, later, cell.place / "finals" / "cache") as study:
            final = study.one.final
            assert final
            number = {"best": study.best, "simplest": study.simplest}.get(name, lambda: final.trial)()
            found = getattr(study, {"trial": "own", "best": "soup", "simplest": "soup"}.get(name, name))(number)
            logits, *measured = found if isinstance(found, tuple) else (found,)
            classes = study.one.parts.classes
        result = judged(cell, [classes[i] for i in logits.argmax(1).tolist()])
        return {**result, "trial": number, "agreement": measured}

    return column


def calibration(cell: Cell) -> Row:
    """Judge the soup of the final model's trial, and keep how well several ways of predicting are calibrated."""
    folder = Path(searched(cell, "finals")["summary"]["folder"])
    with opened(folder, [cell.photos / path for path in cell.later], cell.place / "finals" / "cache") as study:
        assert study.one.final
        number, classes = study.one.final.trial, study.one.parts.classes
        truth = torch.tensor([classes.index(label(path)) for path in cell.later])
        found, (logits, *_) = study.calibration(number, truth), study.soup(number)
    return {**judged(cell, [classes[i] for i in logits.argmax(1).tolist()]), "calibration": found}


COLUMNS: dict[str, Callable[[Cell], Row]] = {
    **{"base": base, "first": first, "probe": probe, "logistic": logistic, "finals": finals},
    **{name: other_model(name) for name in ("trial", "refit", "soup", "mean", "best", "simplest")},
    "calibration": calibration,
}


# Measuring


def split(photos: Path, seeds: Iterable[int]) -> dict[int, Row]:
    """Return by seed the sorted paths of the user's and of the later pictures."""
    catalog = read_catalog(photos)
    groups = Groups(catalog.pictures, catalog.near or ())
    found: dict[int, Row] = {seed: {"user": [], "later": []} for seed in seeds}
    for seed, parts in found.items():
        for picture in sorted(catalog.pictures, key=lambda each: each.path):
            # Another salt than the seed alone: a study's own split is a hash of (seed, group), too.
            is_user = hash_position(groups.key(picture), f"selection {seed}") < USER_SHARE
            parts["user" if is_user else "later"].append(picture.path)
    return found


def read_rows(work: Path) -> Results:
    found: Results = defaultdict(dict)
    file = work / RESULTS
    for text in file.read_text().splitlines() if file.exists() else ():
        row = json.loads(text)
        found[row["set"], row["seed"]][row["column"]] = row
    return found


def keep(work: Path, name: str, seed: int, column: str, result: Row) -> None:
    with (work / RESULTS).open("a", buffering=1 << 24) as out:  # one write: a killed run leaves no half line
        out.write(json.dumps({"set": name, "seed": seed, "column": column, **result}) + "\n")


def keep_splits(work: Path, folders: Iterable[Path], seeds: Sequence[int]) -> None:
    """Split each folder for each seed, and keep the missing ones."""
    work.mkdir(parents=True, exist_ok=True)
    for photos in folders:
        done = read_rows(work)
        if missing := [seed for seed in seeds if SPLIT not in done[photos.name, seed]]:
            for seed, parts in split(photos, missing).items():
                keep(work, photos.name, seed, SPLIT, parts)


def measure(options: argparse.Namespace) -> None:
    keep_splits(options.work, options.photos, options.seeds)
    for seed in options.seeds:
        for photos in options.photos:
            cell_done = read_rows(options.work)[photos.name, seed]
            parts = cell_done[SPLIT]
            given = {"base": options.base_command, "finals": options.command}
            programs = {version: file.absolute() for version, file in given.items() if file}
            cell = Cell(
                photos, seed, parts["user"], parts["later"], options.work, programs, options.trials, options.backbone
            )
            cell.link_pictures()
            measure_cell(cell, [column for column in options.columns if column not in cell_done])


def measure_cell(cell: Cell, columns: Sequence[str]) -> None:
    """Compute and keep results. One that fails is reported, and missing in the next run again."""
    for column in columns:
        start = time.perf_counter()
        try:
            result = COLUMNS[column](cell)
        except Exception as error:  # an old version can fail in any way; the other cells are still worth their hours
            print(f"{cell.photos.name} {cell.seed} {column}: FAILED: {error!r}", flush=True)
            continue
        keep(cell.work, cell.photos.name, cell.seed, column, result)
        told = f"{100 * result['accuracy']:.2f} % of {len(cell.later)}, {time.perf_counter() - start:.0f} s"
        print(f"{cell.photos.name} {cell.seed} {column}: {told}", flush=True)


# The report


def differences(
    cells: Sequence[dict[str, Row]], one: str, other: str, rng: np.random.Generator
) -> tuple[float, Floats]:
    """Return the difference of two columns on one folder, a mean over seeds, and that of each resample of pictures."""
    paths = sorted({path for cell in cells for path in cell[SPLIT]["later"]})
    at, n = {path: i for i, path in enumerate(paths)}, len(paths)
    each, is_later = np.zeros((len(cells), n)), np.zeros((len(cells), n))  # a picture is later for some seeds only
    for i, cell in enumerate(cells):
        places = [at[path] for path in cell[SPLIT]["later"]]
        each[i, places] = np.subtract(cell[one]["right"], cell[other]["right"])
        is_later[i, places] = 1
    drawn = []
    for _ in range(0, RESAMPLES, CHUNK):
        times = rng.multinomial(n, np.full(n, 1 / n), CHUNK).astype(float)  # (CHUNK, N)
        drawn.append(((times @ each.T) / (times @ is_later.T)).mean(1))
    return float((each.sum(1) / is_later.sum(1)).mean()), np.concatenate(drawn)


def compare(rows: Results, one: str, other: str) -> str:
    """Format the difference of two columns in points, with its 95 % interval; over the cells that have both."""
    cells: dict[str, list[dict[str, Row]]] = defaultdict(list)
    for (name, _), cell in rows.items():
        if one in cell and other in cell:
            cells[name].append(cell)
    if not cells:
        return "no cell has both"
    rng = np.random.default_rng(0)
    found = {name: differences(each, one, other, rng) for name, each in cells.items()}
    mean = np.mean([each[0] for each in found.values()])
    low, high = np.quantile(np.mean([each[1] for each in found.values()], axis=0), (0.025, 0.975))
    by_set = ", ".join(f"{name} {100 * each[0]:+.2f}" for name, each in found.items())
    n = sum(map(len, cells.values()))
    return f"{100 * mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f}), n = {n} cells; {by_set}"


def claims(found: Sequence[Row]) -> str:
    """Format how often the claimed interval covers the accuracy on later pictures, and what the searches took."""
    inside = sum(one["claimed"]["interval"][0] <= one["accuracy"] <= one["claimed"]["interval"][1] for one in found)
    over = 100 * np.mean([one["claimed"]["accuracy"] - one["accuracy"] for one in found])
    cpu, wall = (np.mean([one[name] for one in found]) for name in ("cpu", "wall"))
    return (
        f"the claimed interval covers the accuracy in {inside} of {len(found)} cells; claimed minus actual accuracy "
        f"{over:+.2f} points; {cpu:.0f} processor seconds, {wall:.0f} s per search"
    )


def report(rows: Results) -> None:
    hidden = (SPLIT, "calibration")
    columns = list(dict.fromkeys(name for cell in rows.values() for name in cell if name not in hidden))
    print(machine.line(f"{len(rows)} cells"))
    print(f"{'set':12}{'seed':>5}{'user':>7}{'later':>7}" + "".join(f"{name:>10}" for name in columns))
    for (name, seed), cell in sorted(rows.items()):
        shown = (f"{100 * cell[column]['accuracy']:10.2f}" if column in cell else f"{'-':>10}" for column in columns)
        print(f"{name:12}{seed:5}{len(cell[SPLIT]['user']):7}{len(cell[SPLIT]['later']):7}{''.join(shown)}")
    print(f"{'mean over sets':31}" + "".join(f"{100 * mean_over_sets(rows, column):10.2f}" for column in columns))
    print("Accuracy on later pictures in %; the mean is of the cells that have the column.")
    print("Differences in points, with 95 % intervals, of the cells that have both columns:")
    for one, other in PAIRS:
        print(f"{f'{one} - {other}':20} {compare(rows, one, other)}")
    for column in columns:
        if found := [cell[column] for cell in rows.values() if "claimed" in cell.get(column, {})]:
            print(f"{column}: {claims(found)}")
    report_calibration(rows)


def report_calibration(rows: Results) -> None:
    found = [cell["calibration"]["calibration"] for cell in rows.values() if "calibration" in cell]
    if not found:
        return
    print(
        f"Calibration on later pictures, mean of {len(found)} cells: cross-entropy in nats, calibration error in points"
    )
    for name in found[0]:
        loss, error = np.mean([one[name] for one in found], axis=0)
        print(f"{name:26}{loss:8.3f}{100 * error:8.1f}")


def mean_over_sets(rows: Results, column: str) -> float:
    by_set: dict[str, list[float]] = defaultdict(list)
    for (name, _), cell in rows.items():
        if column in cell:
            by_set[name].append(cell[column]["accuracy"])
    return float(np.mean([np.mean(each) for each in by_set.values()]))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path, nargs="*", help="folders of pictures")
    parser.add_argument("--work", type=lambda text: Path(text).resolve(), required=True, help="folder of all results")
    parser.add_argument("--base-command", type=Path, help="the command bin/autotune of an older version")
    parser.add_argument("--command", type=Path, help="the command bin/autotune of this version")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--backbone", help="search only this one; default: all that are installed")
    parser.add_argument("--seeds", type=machine.numbers, default=(0, 1, 2))
    parser.add_argument("--columns", type=lambda text: text.split(","), default=list(COLUMNS))
    parser.add_argument("--report", action="store_true", help="show the existing results only")
    options = parser.parse_args()
    if unknown := set(options.columns) - set(COLUMNS):
        parser.error(f"no column {', '.join(sorted(unknown))}; choose from {', '.join(COLUMNS)}")
    return options


def main() -> None:
    options = parse_options()
    if not options.report:
        measure(options)
    report(read_rows(options.work))


if __name__ == "__main__":
    main()
