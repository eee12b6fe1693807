"""The summary of a study: all that is known of it, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.errors import StudyError, did_you_mean
from autotune.study.record import STATES, Record
from autotune.training.params import describe

STUDIES = Path("studies")


def study_status(name: str) -> dict[str, Any]:
    """The summary of a study as it stands, also while it runs."""
    folder = find_study(name)
    record = Record(folder / "record.db")
    try:
        if record.fact("definition") is None:
            raise StudyError(f"Study {name} has not begun.", "Wait a moment, or start it: autotune search")
        return _summarized(record, folder)
    finally:
        record.close()


def find_study(name: str) -> Path:
    """A study's folder, by name or by path. Raises StudyError."""
    for folder in (STUDIES / name, Path(name)):
        if (folder / "record.db").is_file():
            return folder
    known = [file.parent.name for file in STUDIES.glob("*/record.db")]
    raise StudyError(f"There is no study {name!r} in {STUDIES.resolve()}.", did_you_mean(name, known))


def _summarized(record: Record, folder: Path) -> dict[str, Any]:
    """All that is known of a study, as plain values: what --json prints."""
    rows, arms = record.trials(), record.fact("arms", {})
    states = Counter(row["state"] for row in rows)
    board = [
        {
            **{key: row[key] for key in ("number", "state", "value", "params", "epochs", "ended", "seconds")},
            **{key: row[key] for key in ("log_loss", "best_epoch", "trained_parameters", "error")},
            "words": describe(row["params"], arms[row["params"]["backbone"]]),
        }
        for row in rows
    ]
    best = record.best()
    seconds = {"read": 0.0, "test": 0.0, "total": 0.0, **record.fact("seconds", {})}
    probes = record.probes()
    bank = sum(row["bank_seconds"] or 0.0 for row in (*rows, *probes))
    trials = sum((row["seconds"] or 0.0) - (row["bank_seconds"] or 0.0) for row in rows)
    return {
        "study": folder.name,
        "folder": str(folder.resolve()),
        "metric": record.fact("definition")["metric"],
        "classes": record.fact("classes", []),
        "pictures": record.fact("pictures", {}),
        "trials": {**{state: states[state] for state in STATES}, "total": len(rows)},
        "best": best and {
            **{key: best[key] for key in ("number", "value", "params", "log_loss", "checkpoint")},
            "checkpoint": str((folder / best["checkpoint"]).resolve()),
            "words": describe(best["params"], arms[best["params"]["backbone"]]),
        },
        "leaderboard": board,
        "probes": probes,
        "left_out": record.fact("left_out", {}),
        "test": _test(record, best),
        "seconds": {"bank": bank, "trials": trials, **seconds},
    }  # fmt: skip


def _test(record: Record, best: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The latest look with this winner, less what it says of every single picture; how often was looked in all."""
    scores = record.look(best["number"]) if best else None
    if best is None or scores is None:
        return None
    told = {name: value for name, value in scores.items() if name not in ("right", "confidence")}
    return {"looks": len(record.looks()), "trial": best["number"], **told}
