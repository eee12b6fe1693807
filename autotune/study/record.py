"""The record: record.db, which keeps what a study did. Every query stands here."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from sqlite_utils import Database, Migrations

from autotune.errors import StudyError
from autotune.training.params import Params

if TYPE_CHECKING:
    from autotune.training.outcome import Epoch, ProbeOutcome, TrialOutcome

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
STATES = (COMPLETE, PRUNED, FAILED)

migrations = Migrations("autotune")


@migrations()
def m001_start(db: Database) -> None:
    db.table("study").create({"key": str, "value": str}, pk="key")
    db.table("probes").create({"backbone": str, "pixels": int, "value": float, "seconds": float, "bank_seconds": float},
                        pk=("backbone", "pixels"))  # fmt: skip
    db.table("trials").create(
        {
            "number": int, "state": str, "value": float, "log_loss": float, "best_epoch": int, "epochs": int,
            "ended": str, "trained_parameters": int, "checkpoint": str, "params": str, "error": str, "trace": str,
            "seconds": float, "bank_seconds": float, "finished": str,
        },
        pk="number",
    )  # fmt: skip
    db.table("epochs").create(
        {
            "trial": int, "number": int, "rate": float, "loss": float, "train": float, "validation": float,
            "log_loss": float, "gap": float, "cycle_end": int, "seconds": float,
        },
        pk=("trial", "number"),
    )  # fmt: skip
    db.table("looks").create({"id": int, "trial": int, "finished": str, "seconds": float, "scores": str}, pk="id")


@migrations()
def m002_exports(db: Database) -> None:
    columns = {"id": int, "trial": int, "folder": str, "finished": str, "facts": str}
    db.table("exports").create(columns, pk="id")


class Record:
    """An open record.db; only the driver writes to it. Raises StudyError where it is damaged or cannot be opened."""

    def __init__(self, file: Path) -> None:
        try:
            self._db = Database(file)
            if migrations.pending(self._db):
                # `status` may ask at the moment when a study makes its record: one of them makes the tables.
                with FileLock(file.with_name("record.lock")):
                    migrations.apply(self._db)
        except sqlite3.DatabaseError as error:
            raise StudyError(
                f"{file} cannot be read: {error}.", "Put back a copy of it, or start another study."
            ) from error

    def close(self) -> None:
        self._db.close()

    def note(self, **values: Any) -> None:
        """Keep facts of the study under their names."""
        self._db.table("study").upsert_all(({"key": k, "value": json.dumps(v)} for k, v in values.items()), pk="key")

    def fact(self, name: str, default: Any = None) -> Any:
        rows = list(self._db.query("select value from study where key = ?", [name]))
        return json.loads(rows[0]["value"]) if rows else default

    def add_seconds(self, **parts: float) -> None:
        """Add to what reading, the search and the test have taken over all runs."""
        known = self.fact("seconds", {})
        self.note(seconds={**known, **{name: known.get(name, 0.0) + value for name, value in parts.items()}})

    def keep_probe(self, backbone: str, pixels: int, outcome: ProbeOutcome) -> None:
        self._db.table("probes").upsert(
            {
                "backbone": backbone,
                "pixels": pixels,
                "value": outcome.value,
                "seconds": outcome.seconds,
                "bank_seconds": outcome.cache_seconds,
            },
            pk=("backbone", "pixels"),
        )

    def probes(self) -> list[dict[str, Any]]:
        """Best first; between equals the first in name."""
        return list(self._db.query("select * from probes order by value desc, backbone, pixels"))

    def keep_epoch(self, trial: int, row: Epoch) -> None:
        self._db.table("epochs").upsert({"trial": trial, **asdict(row)}, pk=("trial", "number"))

    def curve(self, trial: int) -> list[dict[str, Any]]:
        return list(self._db.query("select * from epochs where trial = ? order by number", [trial]))

    def keep_outcome(self, number: int, params: Params, outcome: TrialOutcome, checkpoint: str | None) -> None:
        """checkpoint: its file in the study's folder."""
        state = PRUNED if outcome.ended == "pruned" else COMPLETE
        values = asdict(outcome)
        values["bank_seconds"] = values.pop("cache_seconds")
        self._keep_trial(number, params, {**values, "checkpoint": checkpoint, "state": state})

    def keep_failure(self, number: int, params: Params, error: str, trace: str) -> None:
        self._keep_trial(number, params, {"state": FAILED, "ended": error, "error": error, "trace": trace})

    def trials(self) -> list[dict[str, Any]]:
        """Every finished trial with its Params as a dict, the winner first: complete before pruned before failed,
        then by metric, then the lower cross-entropy, then fewer trained parameters, then the earlier.
        """
        rows = self._db.query(
            """select * from trials order by
               case state when 'complete' then 0 when 'pruned' then 1 else 2 end,
               value desc, log_loss, trained_parameters, number"""
        )
        return [{**row, "params": json.loads(row["params"])} for row in rows]

    def best(self) -> dict[str, Any] | None:
        """The winner: the first of the complete trials."""
        return next((row for row in self.trials() if row["state"] == COMPLETE), None)

    def trial(self, number: int) -> dict[str, Any]:
        """One finished trial; empty where there is none of that number."""
        return next((row for row in self.trials() if row["number"] == number), {})

    def is_tested(self) -> bool:
        """Whether the winner, if there is one, has met the test pictures."""
        best = self.best()
        return best is None or any(look["trial"] == best["number"] for look in self.looks())

    def last_states(self, n: int) -> list[str]:
        """The states of the trials finished last, latest first."""
        rows = self._db.query("select state from trials order by finished desc, number desc limit ?", [n])
        return [row["state"] for row in rows]

    def keep_look(self, trial: int, seconds: float, scores: Mapping[str, Any]) -> None:
        """One evaluation on the test pictures; each is a row and is counted."""
        self._db.table("looks").insert(
            {"trial": trial, "finished": _now(), "seconds": seconds, "scores": json.dumps(scores)}, pk="id"
        )

    def look(self, trial: int) -> dict[str, Any] | None:
        """The scores of the latest look with this trial; None where it never met the test pictures."""
        own = [look["scores"] for look in self.looks() if look["trial"] == trial]
        return own[-1] if own else None

    def looks(self) -> list[dict[str, Any]]:
        """Every look at the test pictures, in order."""
        rows: Iterable[dict[str, Any]] = self._db.query("select * from looks order by id")
        return [{**row, "scores": json.loads(row["scores"])} for row in rows]

    def keep_export(self, trial: int, folder: str, facts: Mapping[str, Any]) -> None:
        """One bundle that was handed over, with its proof."""
        row = {"trial": trial, "folder": folder, "finished": _now(), "facts": json.dumps(facts)}
        self._db.table("exports").insert(row, pk="id")

    def exports(self) -> list[dict[str, Any]]:
        """Every bundle handed over, in order."""
        return [
            {**row, "facts": json.loads(row["facts"])} for row in self._db.query("select * from exports order by id")
        ]

    def _keep_trial(self, number: int, params: Params, values: dict[str, Any]) -> None:
        row = {"number": number, "params": json.dumps(params.recorded()), "finished": _now(), **values}
        self._db.table("trials").upsert(row, pk="number")


@contextmanager
def lock_study(folder: Path) -> Iterator[None]:
    """One driver a study. Raises StudyError where another is at work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(
            f"{folder.resolve()} cannot be made: {error.strerror}.", "Run it where you may write."
        ) from error
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise StudyError(
            f"Study {folder.name} is being worked on by another process.", "Wait for it, or stop it."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def open_record(folder: Path) -> Iterator[Record]:
    """The record of a study, closed afterwards."""
    record = Record(folder / "record.db")
    try:
        yield record
    finally:
        record.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
