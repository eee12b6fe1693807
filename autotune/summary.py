"""The summary of a study: all that is known of it, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.errors import StudyError, did_you_mean
from autotune.params import describe
from autotune.record import STATES, Record

STUDIES = Path("studies")


def status(name: str) -> dict[str, Any]:
    """The summary of a study as it stands, also while it runs."""
    folder = find(name)
    book = Record(folder / "record.db")
    try:
        if book.fact("definition") is None:
            raise StudyError(f"Study {name} has not begun.", "Wait a moment, or start it: autotune search")
        return _summarized(book, folder)
    finally:
        book.close()


def find(name: str) -> Path:
    """A study's folder, by name or by path. Raises StudyError."""
    for folder in (STUDIES / name, Path(name)):
        if (folder / "record.db").is_file():
            return folder
    known = [file.parent.name for file in STUDIES.glob("*/record.db")]
    raise StudyError(f"There is no study {name!r} in {STUDIES.resolve()}.", did_you_mean(name, known))


def _summarized(book: Record, folder: Path) -> dict[str, Any]:
    """All that is known of a study, as plain values: what --json prints."""
    rows, arms = book.trials(), book.fact("arms", {})
    states = Counter(row["state"] for row in rows)
    board = [
        {
            **{key: row[key] for key in ("number", "state", "value", "params", "epochs", "ended", "seconds")},
            **{key: row[key] for key in ("log_loss", "best_epoch", "trained_parameters", "error")},
            "words": describe(row["params"], arms[row["params"]["backbone"]]),
        }
        for row in rows
    ]
    best = book.best()
    seconds = {"read": 0.0, "test": 0.0, "total": 0.0, **book.fact("seconds", {})}
    probes = book.probes()
    bank = sum(row["bank_seconds"] or 0.0 for row in (*rows, *probes))
    trials = sum((row["seconds"] or 0.0) - (row["bank_seconds"] or 0.0) for row in rows)
    return {
        "study": folder.name,
        "folder": str(folder.resolve()),
        "metric": book.fact("definition")["metric"],
        "classes": book.fact("classes", []),
        "pictures": book.fact("pictures", {}),
        "trials": {**{state: states[state] for state in STATES}, "total": len(rows)},
        "best": best and {
            **{key: best[key] for key in ("number", "value", "params", "log_loss", "checkpoint")},
            "checkpoint": str((folder / best["checkpoint"]).resolve()),
            "words": describe(best["params"], arms[best["params"]["backbone"]]),
        },
        "leaderboard": board,
        "probes": probes,
        "left_out": book.fact("left_out", {}),
        "test": _test(book, best),
        "seconds": {"bank": bank, "trials": trials, **seconds},
    }  # fmt: skip


def _test(book: Record, best: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The latest look with this winner, less what it says of every single picture; how often was looked in all."""
    scores = book.look(best["number"]) if best else None
    if best is None or scores is None:
        return None
    told = {name: value for name, value in scores.items() if name not in ("right", "confidence")}
    return {"looks": len(book.looks()), "trial": best["number"], **told}
