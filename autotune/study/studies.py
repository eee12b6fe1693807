"""List the studies in this folder, and remove one."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autotune import text
from autotune.errors import StudyError
from autotune.study.storage.lock import LOCK, lock_study
from autotune.study.storage.record import RECORD, open_record
from autotune.study.storage.rows import COMPLETE
from autotune.study.summary import STUDIES, find_study

USERS_OWN = (".toml", ".md", ".py")  # a study's definition and what explains it are the user's, and in git


@dataclass(frozen=True)
class StudyRow:
    """A study in a list. trials: complete ones. problem: why its record cannot be read; metric is "" then.

    bytes: of all its files. used: the last change of a file, in seconds since 1970.
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
        return f"study {self.name}, {text.plural(self.trials, 'trial')}, {text.file_size(self.bytes)}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "last_used": datetime.fromtimestamp(self.used, UTC).isoformat(timespec="seconds")}


def list_studies() -> list[StudyRow]:
    """Return all studies in ./studies, most recently used first. A damaged one has `problem`."""
    rows = [_row(file.parent) for file in STUDIES.glob(f"*/{RECORD}")]
    return sorted(rows, key=lambda row: -row.used)


def study_row(name: str) -> StudyRow:
    """Return one study. Raises StudyError if it does not exist."""
    return _row(find_study(name))


def remove_study(name: str) -> StudyRow:
    """Delete the files that autotune wrote for a study: all but .toml, .md and .py files. Raises StudyError if it is in
    use.
    """
    folder = find_study(name)
    with lock_study(folder):
        row = _row(folder)
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.suffix not in USERS_OWN and path.name != LOCK:
                path.unlink()
    (folder / LOCK).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
    return row


def _row(folder: Path) -> StudyRow:
    files = [file.stat() for file in folder.rglob("*") if file.is_file()]
    place = folder.name, str(folder.resolve())
    size, used = sum(file.st_size for file in files), max(file.st_mtime for file in files)
    try:
        with open_record(folder) as record:
            best, definition = record.winner(), record.facts().definition
            test = record.evaluation()
            n_complete = sum(row.state == COMPLETE for row in record.trials())
    except StudyError as error:
        return StudyRow(*place, size, used, problem=error.problem)
    metric = definition["metric"] if definition else "not started"
    scores = best.value if best else None, test.value if test else None
    return StudyRow(*place, size, used, n_complete, metric, *scores)
