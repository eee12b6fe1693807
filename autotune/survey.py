"""The survey of a folder: what a study of it would see, told before any study."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autotune import groups, images, samples, splits
from autotune.errors import DataError
from autotune.screen import Screen, percent
from autotune.splits import Split
from autotune.store import cache_folder

SHOWN = 20


def survey(data: Path | None, n_suspects: int, screen: Screen) -> dict[str, Any]:
    """Read pictures and tell of them as plain values: what `autotune data --json` prints.

    n_suspects: how many doubtful labels to look for. problem: why no study of it can start; parts are then missing.
    Raises DataError where there are none to read, or where labels cannot be doubted.
    """
    source = samples.place(data, cache_folder(), screen.say)
    catalog = images.read(source, progress=screen.progress("Reading"))
    split: Split | None = None
    parts: dict[str, int] | None = None
    aside, problem = catalog.set_aside, None
    try:
        split = splits.split(catalog, seed=0)
        parts, aside = {name: len(split.part(name)) for name in splits.PARTS}, split.set_aside
    except DataError as error:
        problem = f"{error.problem} {error.fix}"
    doubted = _doubted(split, catalog.root, n_suspects, screen) if split and n_suspects else []
    counts, alike = catalog.counts, groups.alike(catalog.pictures, catalog.near)
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


def _doubted(split: Split, root: Path, n: int, screen: Screen) -> list[dict[str, Any]]:
    from autotune.suspects import suspects  # torch, which the rest does without

    return [asdict(one) for one in suspects(split, root, n, screen)]


def show(found: dict[str, Any], screen: Screen) -> None:
    """The survey for a person."""
    screen.say(f"{found['folder']}: {found['pictures']} pictures of {len(found['classes'])} classes")
    width = max(len(name) for name in found["classes"])
    for name, n in found["classes"].items():
        screen.say(f"  {name:{width}} {n:7d}")
    screen.say(f"The largest class has {found['uneven']:.1f} times the pictures of the smallest.")
    screen.say(f"The median picture's shorter side is {found['side']} pixels.")
    if found["parts"]:
        whose = "as the folders say" if len(found["given_parts"]) > 1 else "by a hash of their content"
        parts = ", ".join(f"{n} {name}" for name, n in found["parts"].items())
        screen.say(f"Parts, {whose}: {parts}")
    _list(screen, "Set aside", [f"{one['path']}: {one['reason']}" for one in found["set_aside"]])
    _list(screen, "Copies, kept on one side of the split", [" = ".join(group) for group in found["copies"]])
    _list(screen, "Near-copies, kept on one side too", [" = ".join(group) for group in found["near_copies"]])
    if found["too_much_alike"]:
        screen.say("  The pictures are too much alike to tell near-copies from others; exact copies alone count.")
    told = [" = ".join(f"{one['path']} ({one['label']})" for one in group) for group in found["contradictions"]]
    _list(screen, "Copies whose labels contradict each other", told)
    if found["suspects"]:
        _list(screen, "Labels to look at, the most doubtful first", [_doubt(one) for one in found["suspects"]])
    if found["problem"]:
        screen.say(f"No study can start: {found['problem']}")


def _doubt(one: dict[str, Any]) -> str:
    return f"{one['path']}: labelled {one['label']}, looks like {one['answer']} ({percent(one['probability'])})"


def _list(screen: Screen, title: str, lines: list[str]) -> None:
    screen.say(f"{title}: {len(lines) or 'none'}")
    for line in lines[:SHOWN]:
        screen.say(f"  {line}")
    if len(lines) > SHOWN:
        screen.say(f"  ... and {len(lines) - SHOWN} more; --json lists them all")
