"""Plant wrong labels among photos, and count how many of them `data --suspects` lists.

    python benchmarks/suspects.py FOLDER...

A twentieth of each folder's pictures gets the label of another class, drawn at random. Two lists, each as long as
there are planted pictures outside the test set, are compared: that of the linear probe, and that of the finals of a
study of 20 trials (`--study`).
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from pathlib import Path

import machine

from autotune.data.catalog import read_catalog
from autotune.data.split import MANIFEST, TEST, read_manifest, split_catalog
from autotune.report.label_issues import find_label_issues, find_label_issues_in_finals
from autotune.study.listener import StudyListener
from autotune.study.request import SearchRequest
from autotune.study.run import run_study

SHARE = 0.05
TRIALS = 20
MARK = "planted-"


def plant(folder: Path, out: Path, seed: int) -> None:
    """Link the pictures of folder into out, a twentieth of them under another class."""
    drawn = random.Random(seed)
    files = sorted(file for file in folder.glob("*/*") if file.is_file())
    classes = sorted({file.parent.name for file in files})
    wrong = set(drawn.sample(files, round(SHARE * len(files))))
    for file in files:
        label, name = file.parent.name, file.name
        if file in wrong:
            label, name = drawn.choice([one for one in classes if one != label]), f"{MARK}{label}-{name}"
        (out / label).mkdir(parents=True, exist_ok=True)
        (out / label / name).symlink_to(file.resolve())


def compare(folder: Path, seed: int) -> None:
    """Print how many planted pictures of one folder are in each list."""
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        photos = Path("photos")
        plant(folder, photos, seed)
        listener = StudyListener()
        run_study(SearchRequest(data=photos, trials=TRIALS, flags={"seed": seed}), listener)
        manifest = read_manifest(Path("studies") / photos / MANIFEST)
        planted = {one.path for one in manifest if MARK in one.path and one.part != TEST}
        catalog = read_catalog(photos)
        probe = find_label_issues(split_catalog(catalog, seed), photos, len(planted), listener)
        finals = find_label_issues_in_finals(str(photos), catalog.pictures, len(planted))
        by_probe, by_finals = (len(planted & {one.path for one in found.issues}) for found in (probe, finals))
        counts = f"{len(manifest):9d} {len(planted):8d} {by_probe:6d} {by_finals:7d}"
        print(f"{folder.name:12} {seed:4d} {counts}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    folders = [folder.resolve() for folder in args.folders]
    print(machine.line(f"{args.seeds} per folder"))
    print("folder       seed  pictures  planted  probe  finals")
    for folder in folders:
        for seed in range(args.seeds):
            compare(folder, seed)


if __name__ == "__main__":
    main()
