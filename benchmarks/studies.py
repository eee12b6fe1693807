r"""Measure the studies of ../studies: the final model, the recipe and the best other trial, on later pictures.

    python benchmarks/studies.py STUDY PHOTOS --work WORK [--parts 0,1,2] [--trials 20] [--config FILE]
    python benchmarks/studies.py hotdog HOTDOG --others FOLDERS... --work WORK
    python benchmarks/studies.py --work WORK --report

STUDY: a folder of ../studies. A hash of the groups of near-duplicates divides the pictures into thirds; part 0, 1 or 2
keeps that third as later pictures, and its study sees only the others. Over the three parts, each picture is later
once. For hotdog, the study sees 49 hot dogs of HOTDOG and 2,401 other pictures, of HOTDOG and of OTHERS; the other hot
dogs and as many others are later. Results are appended to WORK/results.jsonl, and only missing ones are computed.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import machine
import numpy as np
from numpy.typing import NDArray
from selection import Cell, Results, Row, keep, label, linked, read_rows, run
from sklearn.metrics import average_precision_score

from autotune.data.catalog import read_catalog
from autotune.data.groups import Groups
from autotune.data.split import hash_position
from autotune.files import write_whole
from autotune.training.metrics import paired_interval, score, score_interval

STUDIES = Path(__file__).parent.parent / "studies"
N_PARTS, N_RARE, N_OTHERS = 3, 49, 2401  # of the pictures; hot dogs and other pictures in their study
RARE, OTHER, THRESHOLD = "hot_dog", "other", 0.9
SPLIT, SEARCH, MODELS = "split", "search", ("final", "recipe", "best other trial")
DIFFERENCES = (("final", "recipe"), ("best other trial", "recipe"), ("final", "best other trial"))

Numbers = NDArray[np.int64]


# The pictures


def thirds(photos: Path) -> dict[int, Row]:
    """Return by part the paths of the study's and of the later pictures."""
    catalog = read_catalog(photos)
    groups = Groups(catalog.pictures, catalog.near or ())
    part_of = {one.path: int(N_PARTS * hash_position(groups.key(one), "later")) for one in catalog.pictures}
    return {
        part: {
            "user": sorted(path for path in part_of if part_of[path] != part),
            "later": sorted(path for path in part_of if part_of[path] == part),
        }
        for part in range(N_PARTS)
    }


def rare(hotdog: Path, others: Sequence[Path], photos: Path) -> dict[int, Row]:
    """Link hot dogs and other pictures into a folder of two classes, and return the paths of part 0."""
    found: dict[str, list[str]] = {RARE: [], OTHER: []}
    for folder in (hotdog, *others):
        for file in sorted(folder.glob("*/*")):
            kind = RARE if file.parent.name == RARE else OTHER
            link = photos / kind / f"{folder.name}--{file.parent.name}--{file.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(file.resolve())
            found[kind].append(str(link.relative_to(photos)))
    hot, rest = (sorted(found[kind], key=lambda path: hash_position(path, "later")) for kind in (RARE, OTHER))
    n_later = len(hot) - N_RARE
    later = [*hot[N_RARE:], *rest[N_OTHERS : N_OTHERS + n_later]]
    return {0: {"user": sorted([*hot[:N_RARE], *rest[:N_OTHERS]]), "later": sorted(later)}}


# The models


def searched(cell: Cell, study: str, config: Path) -> Row:
    """Return what the command prints of a study, with its seconds."""
    file = cell.place / study / "search.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        words = ("--config", config, "--trials", str(cell.trials), "--study", study, "--json")
        text, cpu, wall = run(cell, study, "search", cell.place / "user", *words)
        write_whole(file, json.dumps({"summary": json.loads(text), "cpu": cpu, "wall": wall}))
    found: Row = json.loads(file.read_text())
    return found


def models(summary: Row) -> dict[str, int | None]:
    """Return the trials to judge, by name; None: the final model."""
    best = next(row for row in summary["leaderboard"] if row["state"] == "complete" and row["name"] != "recipe")
    number = next(row["number"] for row in summary["leaderboard"] if row["name"] == "recipe")
    return dict(zip(MODELS, (None, number, best["number"]), strict=True))


def answered(cell: Cell, study: str, trial: int | None) -> Row:
    """Return a model's probabilities for the later pictures, by class; predicted by its bundle."""
    bundle = cell.place / study / f"bundle-{trial}"
    which = () if trial is None else ("--trial", str(trial))
    run(cell, study, "export", study, bundle, "--quiet", *which)
    classes = sorted({label(path) for path in cell.user})
    text, _, _ = run(cell, study, "predict", bundle, cell.place / "later", "--top", str(len(classes)), "--json")
    rows = [json.loads(line) for line in text.splitlines()]
    found = {Path(row["path"]).name: {each["label"]: each["probability"] for each in row["top"]} for row in rows}
    table = [[found[linked(path).name][one] for one in classes] for path in cell.later]
    return {"classes": classes, "probabilities": np.round(table, 5).tolist()}


def measure(options: argparse.Namespace) -> None:
    study, photos = options.study, options.photos
    options.work.mkdir(parents=True, exist_ok=True)
    if options.others:
        photos = options.work / f"{RARE}-{N_RARE}"
        parts = rare(options.photos, options.others, photos)
    else:
        parts = thirds(photos)
    program = Path(__file__).parent.parent / ".venv" / "bin" / "autotune"
    for part in [part for part in options.parts if part in parts]:
        done = read_rows(options.work)[study, part]
        if SPLIT not in done:
            keep(options.work, study, part, SPLIT, parts[part])
        cell = Cell(
            photos, part, parts[part]["user"], parts[part]["later"], options.work, {study: program}, options.trials
        )
        cell.link_pictures()
        found = searched(cell, study, options.config or STUDIES / study / "study.toml")
        if SEARCH not in done:
            keep(options.work, study, part, SEARCH, found)
        for name, trial in models(found["summary"]).items():
            if name not in done:
                keep(options.work, study, part, name, answered(cell, study, trial))


# The report


def report(rows: Results) -> None:
    by_study: dict[str, list[dict[str, Row]]] = defaultdict(list)
    for (study, _), cell in sorted(rows.items()):
        if all(name in cell for name in MODELS):
            by_study[study].append(cell)
    print(machine.line(f"{sum(map(len, by_study.values()))} studies"))
    for study, cells in by_study.items():
        summaries = [cell[SEARCH]["summary"] for cell in cells]
        metric, classes = summaries[0]["metric"], cells[0]["final"]["classes"]
        labels = numbers(classes, [label(path) for cell in cells for path in cell[SPLIT]["later"]])
        tables = {name: np.concatenate([cell[name]["probabilities"] for cell in cells]) for name in MODELS}
        answers = {name: table.argmax(1) for name, table in tables.items()}
        minutes = np.mean([cell[SEARCH]["wall"] for cell in cells]) / 60
        print(f"\n{study}: {len(cells)} studies, {minutes:.0f} minutes each, {len(labels)} later pictures, {metric}")
        for summary in summaries:
            print(f"  {told(summary)}")
        for name in MODELS:
            value = score(metric, labels, answers[name], len(classes))
            low, high = score_interval(metric, labels, answers[name], len(classes))
            accuracy = (labels == answers[name]).mean()
            print(f"  {name:18} {shown(value, low, high)}, accuracy {100 * accuracy:.1f} %")
            if RARE in classes:
                print(f"  {'':18} {of_rare(classes, labels, tables[name])}")
        for one, other in DIFFERENCES:
            found = 100 * (
                score(metric, labels, answers[one], len(classes)) - score(metric, labels, answers[other], len(classes))
            )
            low, high = paired_interval(metric, labels, answers[one], answers[other], len(classes))
            print(f"  {f'{one} - {other}':36} {found:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})")


def numbers(classes: Sequence[str], names: Sequence[str]) -> Numbers:
    return np.array([classes.index(name) for name in names])


def told(summary: Row) -> str:
    """Say what the study itself reports: the recipe's and the best other trial's validation score, and the test."""
    trials = models(summary)
    board = {row["number"]: row for row in summary["leaderboard"]}
    values = ", ".join(
        f"{name} {100 * board[number]['value']:.1f} %" for name, number in trials.items() if number is not None
    )
    test = summary["test"]
    return (
        f"validation: {values}; winner: {board[summary['final']['trial']]['name']}; "
        f"test {shown(test['value'], *test['value_interval'])}, n = {test['n']}"
    )


def shown(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def of_rare(classes: Sequence[str], labels: Numbers, table: NDArray[np.float64]) -> str:
    """Return average precision, and precision and recall at the threshold, also for one hot dog in 50 pictures."""
    is_rare, probability = labels == classes.index(RARE), table[:, classes.index(RARE)]
    says = probability >= THRESHOLD
    recall, false = says[is_rare].mean(), says[~is_rare].mean()
    often = N_OTHERS / N_RARE
    weights = np.where(is_rare, 1, often)
    averages = [average_precision_score(is_rare, probability, sample_weight=each) for each in (None, weights)]
    precise = [recall / max(recall + times * false, 1e-9) for times in (1, often)]
    return (
        f"average precision {100 * averages[0]:.1f} % (49:1: {100 * averages[1]:.1f} %); at {THRESHOLD}: "
        f"precision {100 * precise[0]:.1f} % (49:1: {100 * precise[1]:.1f} %), recall {100 * recall:.1f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", nargs="?", help="a folder of ../studies")
    parser.add_argument("photos", type=Path, nargs="?", help="folder of its pictures")
    parser.add_argument("--others", type=Path, nargs="+", default=(), help="folders of pictures that are no hot dogs")
    parser.add_argument("--config", type=Path, help="default: study.toml in the study's folder")
    parser.add_argument("--work", type=lambda text: Path(text).resolve(), required=True, help="folder of all results")
    parser.add_argument("--parts", type=machine.numbers, default=(0, 1, 2))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--report", action="store_true", help="show the existing results only")
    options = parser.parse_args()
    if not options.report:
        measure(options)
    report(read_rows(options.work))


if __name__ == "__main__":
    main()
