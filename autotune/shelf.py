"""The shelf: all studies in this folder, in a table, and how one is removed from it."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autotune import text
from autotune.errors import StudyError
from autotune.record import COMPLETE, Record, locked
from autotune.summary import STUDIES, find

DEFINITION = "study.toml"  # the user's own, and kept in git


def studies() -> dict[str, Any]:
    """Every study in ./studies as plain values: what `autotune studies --json` prints. A damaged one has `problem`."""
    rows = [_told(file.parent) for file in STUDIES.glob("*/record.db")]
    return {"folder": str(STUDIES.resolve()), "studies": sorted(rows, key=lambda row: -row["used"])}


def opened(name: str) -> dict[str, Any]:
    """One of them. Raises StudyError where there is none."""
    return _told(find(name))


def remove(name: str) -> str:
    """Delete what autotune has written for a study, and say what that was. Raises StudyError where it is at work."""
    folder = find(name)
    with locked(folder):
        words = in_words(_told(folder))
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in (DEFINITION, "lock"):
                path.unlink()
    (folder / "lock").unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
    return words


def in_words(row: dict[str, Any]) -> str:
    trials = f"{row['trials']} trial{'s' * (row['trials'] != 1)}"
    return f"study {row['name']}, {trials}, {text.file_size(row['bytes'])}"


def _told(folder: Path) -> dict[str, Any]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    row: dict[str, Any] = {
        "name": folder.name,
        "folder": str(folder.resolve()),
        "bytes": sum(file.stat().st_size for file in files),
        "used": max(file.stat().st_mtime for file in files),
        "trials": 0, "metric": "", "validation": None, "test": None, "problem": "",
    }  # fmt: skip
    row["last_used"] = datetime.fromtimestamp(row["used"], UTC).isoformat(timespec="seconds")
    try:
        book = Record(folder / "record.db")
    except StudyError as error:
        return {**row, "problem": error.problem}
    try:
        best = book.best()
        look = book.look(best["number"]) if best else None
        n_complete = sum(one["state"] == COMPLETE for one in book.trials())
        metric = (book.fact("definition") or {}).get("metric", "not begun")
        scores = {"validation": best and best["value"], "test": look and look["value"]}
        return {**row, "trials": n_complete, "metric": metric, **scores}
    finally:
        book.close()
