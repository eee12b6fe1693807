"""The shelf: all studies in this folder, in a table, and how one is removed from it."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autotune import text
from autotune.errors import StudyError
from autotune.study.record import COMPLETE, Record, lock_study
from autotune.study.summary import STUDIES, find_study

DEFINITION = "study.toml"  # the user's own, and kept in git


def list_studies() -> dict[str, Any]:
    """Every study in ./studies as plain values: what `autotune studies --json` prints. A damaged one has `problem`."""
    rows = [_told(file.parent) for file in STUDIES.glob("*/record.db")]
    return {"folder": str(STUDIES.resolve()), "studies": sorted(rows, key=lambda row: -row["used"])}


def study_row(name: str) -> dict[str, Any]:
    """One of them. Raises StudyError where there is none."""
    return _told(find_study(name))


def remove_study(name: str) -> str:
    """Delete what autotune has written for a study, and say what that was. Raises StudyError where it is at work."""
    folder = find_study(name)
    with lock_study(folder):
        words = describe_row(_told(folder))
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in (DEFINITION, "lock"):
                path.unlink()
    (folder / "lock").unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
    return words


def describe_row(row: dict[str, Any]) -> str:
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
        record = Record(folder / "record.db")
    except StudyError as error:
        return {**row, "problem": error.problem}
    try:
        best = record.best()
        look = record.look(best["number"]) if best else None
        n_complete = sum(one["state"] == COMPLETE for one in record.trials())
        metric = (record.fact("definition") or {}).get("metric", "not begun")
        scores = {"validation": best and best["value"], "test": look and look["value"]}
        return {**row, "trials": n_complete, "metric": metric, **scores}
    finally:
        record.close()
