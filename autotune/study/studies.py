"""All studies in this folder, and how one is removed."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autotune import text
from autotune.errors import StudyError
from autotune.study.record import lock_study, open_record
from autotune.study.rows import COMPLETE
from autotune.study.summary import STUDIES, find_study

DEFINITION = "study.toml"  # the user's own, and kept in git


@dataclass(frozen=True)
class StudyRow:
    """A study in a list. trials: complete ones. metric: "" and problem: why, where its record cannot be read.

    bytes: of all its files. used: when one of them changed last, in seconds since 1970.
    """

    name: str
    folder: str
    bytes: int
    used: float
    trials: int = 0
    metric: str = ""
    validation: float | None = None
    test: float | None = None
    problem: str = ""

    @property
    def words(self) -> str:
        return f"study {self.name}, {self.trials} trial{'s' * (self.trials != 1)}, {text.file_size(self.bytes)}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "last_used": datetime.fromtimestamp(self.used, UTC).isoformat(timespec="seconds")}


def list_studies() -> list[StudyRow]:
    """Every study in ./studies, the one last worked on first. A damaged one has `problem`."""
    rows = [_row(file.parent) for file in STUDIES.glob("*/record.db")]
    return sorted(rows, key=lambda row: -row.used)


def study_row(name: str) -> StudyRow:
    """One of them. Raises StudyError where there is none."""
    return _row(find_study(name))


def remove_study(name: str) -> StudyRow:
    """Delete what autotune has written for a study. Raises StudyError where it is at work."""
    folder = find_study(name)
    with lock_study(folder):
        row = _row(folder)
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in (DEFINITION, "lock"):
                path.unlink()
    (folder / "lock").unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
    return row


def _row(folder: Path) -> StudyRow:
    files = [file.stat() for file in folder.rglob("*") if file.is_file()]
    place = folder.name, str(folder.resolve())
    size, used = sum(file.st_size for file in files), max(file.st_mtime for file in files)
    try:
        with open_record(folder) as record:
            best, definition = record.best(), record.facts().definition
            test = record.evaluation(best.number) if best else None
            n_complete = sum(row.state == COMPLETE for row in record.trials())
    except StudyError as error:
        return StudyRow(*place, size, used, problem=error.problem)
    metric = definition["metric"] if definition else "not begun"
    scores = best.value if best else None, test.value if test else None
    return StudyRow(*place, size, used, n_complete, metric, *scores)
