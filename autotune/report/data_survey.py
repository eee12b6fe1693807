"""The survey of a folder: what a study of it would see, told before any study."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autotune.data import datasets, groups
from autotune.data.catalog import read_catalog
from autotune.data.split import PARTS, Split, split_catalog
from autotune.errors import DataError
from autotune.files import cache_folder
from autotune.study.listener import StudyListener


def survey_data(data: Path | None, n_suspects: int, listener: StudyListener) -> dict[str, Any]:
    """Read pictures and tell of them as plain values: what `autotune data --json` prints.

    n_suspects: how many doubtful labels to look for. problem: why no study of it can start; parts are then missing.
    Raises DataError where there are none to read, or where labels cannot be doubted.
    """
    source = datasets.locate(data, cache_folder(), listener.say)
    catalog = read_catalog(source, progress=listener.progress("Reading"))
    split: Split | None = None
    parts: dict[str, int] | None = None
    aside, problem = catalog.set_aside, None
    try:
        split = split_catalog(catalog, seed=0)
        parts, aside = {name: len(split.part(name)) for name in PARTS}, split.set_aside
    except DataError as error:
        problem = f"{error.problem} {error.fix}"
    doubted = _doubted(split, catalog.root, n_suspects, listener) if split and n_suspects else []
    counts, alike = catalog.counts, groups.find_copies(catalog.pictures, catalog.near)
    return {
        "folder": str(source),
        "pictures": len(catalog.pictures),
        "classes": counts,
        "uneven": max(counts.values()) / min(counts.values()),
        "parts": parts,
        "given_parts": dict(Counter(p.part for p in catalog.pictures if p.part)),
        "side": catalog.side,
        "set_aside": [{"path": one.path, "reason": one.reason} for one in aside],
        "copies": [[p.path for p in group] for group in catalog.copies],
        "near_copies": [[p.path for p in group] for group in groups.near_copies(alike)],
        "too_much_alike": catalog.near is None,
        "contradictions": [[{"path": p.path, "label": p.label} for p in one] for one in groups.contradictions(alike)],
        "suspects": doubted,
        "problem": problem,
    }


def _doubted(split: Split, root: Path, n: int, listener: StudyListener) -> list[dict[str, Any]]:
    from autotune.report.label_issues import find_label_issues  # torch, which the rest does without

    return [asdict(one) for one in find_label_issues(split, root, n, listener)]
