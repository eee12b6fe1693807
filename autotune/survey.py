"""The survey of a folder: what a study of it would see, told before any study."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from autotune import images, splits
from autotune.errors import DataError
from autotune.images import Progress
from autotune.screen import Screen
from autotune.store import cache_folder

SHOWN = 20


def survey(data: Path | None, progress: Progress) -> dict[str, Any]:
    """Read a folder, or the built-in sample, as plain values: what `autotune data --json` prints.

    problem: why no study of it can start; parts are then missing.
    """
    root = (data or images.sample(cache_folder())).resolve()
    catalog = images.read(root, progress=progress)
    parts: dict[str, int] | None = None
    aside, problem = catalog.set_aside, None
    try:
        split = splits.split(catalog, seed=0)
        parts, aside = {name: len(split.part(name)) for name in splits.PARTS}, split.set_aside
    except DataError as error:
        problem = f"{error.problem} {error.fix}"
    counts = catalog.counts
    return {
        "folder": str(root),
        "pictures": len(catalog.pictures),
        "classes": counts,
        "uneven": max(counts.values()) / min(counts.values()),
        "parts": parts,
        "given_parts": dict(Counter(p.part for p in catalog.pictures if p.part)),
        "side": catalog.side,
        "set_aside": [{"path": one.path, "reason": one.reason} for one in aside],
        "copies": [[p.path for p in group] for group in catalog.copies],
        "contradictions": [[{"path": p.path, "label": p.label} for p in group] for group in catalog.contradictions],
        "problem": problem,
    }


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
    told = [" = ".join(f"{one['path']} ({one['label']})" for one in group) for group in found["contradictions"]]
    _list(screen, "Copies whose labels contradict each other", told)
    if found["problem"]:
        screen.say(f"No study can start: {found['problem']}")


def _list(screen: Screen, title: str, lines: list[str]) -> None:
    screen.say(f"{title}: {len(lines) or 'none'}")
    for line in lines[:SHOWN]:
        screen.say(f"  {line}")
    if len(lines) > SHOWN:
        screen.say(f"  ... and {len(lines) - SHOWN} more; --json lists them all")
