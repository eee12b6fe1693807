"""The record of a study, record.db. All SQL on it is in this module."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlite_utils import Database

from autotune.data.folder import SkippedFile
from autotune.data.visits import Visits
from autotune.errors import StudyError
from autotune.formats.cost import profile_from_json
from autotune.study.storage.comparisons import ComparisonRow
from autotune.study.storage.evaluations import Evaluation, EvaluationRow, LaterRow
from autotune.study.storage.lock import IN_USE, WAIT
from autotune.study.storage.migrations import migrations
from autotune.study.storage.rows import (
    COMPLETE,
    FAILED,
    PRUNED,
    BackboneFacts,
    ExportRow,
    Final,
    FoldRow,
    ProbeRow,
    Running,
    StudyFacts,
    TrialRow,
)
from autotune.training import outcome as outcomes
from autotune.training.outcome import Epoch, ProbeOutcome, TrialOutcome
from autotune.training.params import Params

_FOLD_COLUMNS = [field.name for field in fields(FoldRow)]
_TRIAL_COLUMNS = {field.name for field in fields(TrialRow)}
_PROBE_COLUMNS = {field.name for field in fields(ProbeRow)}

RECORD, TRIALS = "record.db", "trials.db"  # the files of a study: ours, and Optuna's
RESTORE = "Restore the file, or start another study: --study NEW"


class Record:
    """An open record.db; only the driver writes to it. Raises StudyError if it is damaged or cannot be opened."""

    def __init__(self, file: Path) -> None:
        self._marked: float | None = None
        self.kind = "other"
        try:
            self._db = Database(file)
            if migrations.pending(self._db):
                # `status` may open the record while a study creates it; the lock lets only one create the tables.
                with FileLock(file.with_name("record.lock")):
                    migrations.apply(self._db)
        except sqlite3.DatabaseError as error:
            raise _unusable(file, error) from error

    def close(self) -> None:
        self._db.close()

    def facts(self) -> StudyFacts:
        """Return the current facts of the study."""
        rows = self._db.query("select key, value from study")
        known = {row["key"]: json.loads(row["value"]) for row in rows}
        return StudyFacts(**{name: _TYPED[name](value) if name in _TYPED else value for name, value in known.items()})

    def keep_facts(self, **values: Any) -> None:
        """Save facts, named as the fields of StudyFacts."""
        plain = ({"key": name, "value": json.dumps(_plain(name, value))} for name, value in values.items())
        self._db.table("study").upsert_all(plain, pk="key")

    def add_seconds(self, **kinds: float) -> None:
        """Add to the seconds that each kind of work has taken over all runs."""
        known = self.facts().seconds
        self.keep_facts(seconds={**known, **{name: known.get(name, 0.0) + value for name, value in kinds.items()}})

    def start_clock(self, start: float) -> None:
        """Add the time from now on to the study's, whenever work is saved. start: on time.monotonic's clock."""
        self._marked = start

    def keep_doing(self, doing: str, kind: str) -> None:
        """Save what the current run does, for `status`. kind: of work, that its time counts as if it is interrupted."""
        self.kind = kind
        run = self.facts().run
        assert run
        self.keep_facts(run=replace(run, doing=doing))

    def keep_left(self, seconds: float) -> None:
        """Save when the current run is estimated to end, for `status`."""
        run = self.facts().run
        assert run
        self.keep_facts(run=replace(run, ends=time.time() + seconds))

    def mark(self, kind: str) -> None:
        """Add the seconds since the last mark to a kind of work, if the clock runs."""
        if self._marked is not None:
            now = time.monotonic()
            self.add_seconds(**{kind: now - self._marked})
            self._marked = now

    def keep_probe(self, backbone: str, pixels: int, outcome: ProbeOutcome) -> None:
        values = {name: value for name, value in asdict(outcome).items() if name in _PROBE_COLUMNS}
        row = ProbeRow(backbone, pixels, **values)
        self._db.table("probes").upsert(asdict(row), pk=("backbone", "pixels"))
        self.mark("trials")

    def probes(self) -> list[ProbeRow]:
        """Return all probes, best first, ties by name."""
        rows = self._db.query("select * from probes order by log_loss, value desc, backbone, pixels")
        return [ProbeRow(**row) for row in rows]

    def keep_digest(self, path: str, digest: str) -> None:
        """Save the hash of a file of the study. path: relative to the study folder."""
        self._db.table("files").upsert({"path": path, "digest": digest}, pk="path")

    def digest(self, path: str) -> str | None:
        """Return the hash of a file as it was written; None if an earlier version wrote it."""
        rows = self._db.query("select digest from files where path = ?", [path])
        return next((row["digest"] for row in rows), None)

    def keep_epoch(self, trial: int, row: Epoch) -> None:
        self._db.table("epochs").upsert({"trial": trial, **asdict(row)}, pk=("trial", "number"))

    def curve(self, trial: int) -> list[Epoch]:
        """Return the epochs of a trial, in order."""
        rows = self._db.query("select * from epochs where trial = ? order by number", [trial])
        return [Epoch(**{**row, "cycle_end": bool(row["cycle_end"])}) for row in rows if row.pop("trial") is not None]

    def keep_outcome(self, number: int, params: Params, outcome: TrialOutcome, checkpoint: str | None) -> None:
        """Save a finished trial. checkpoint: its path relative to the study folder."""
        state = PRUNED if outcome.ended == outcomes.PRUNED else COMPLETE
        kept = {name: value for name, value in asdict(outcome).items() if name in _TRIAL_COLUMNS}
        self._keep_trial(number, params, {**kept, "state": state, "checkpoint": checkpoint})

    def keep_failure(self, number: int, params: Params, error: str, trace: str) -> None:
        self._keep_trial(number, params, {"state": FAILED, "ended": error, "error": error, "trace": trace})

    def trials(self) -> list[TrialRow]:
        """Return all finished trials sorted by `TrialRow.rank`, the winner first."""
        return sorted(map(_trial, self._db.query("select * from trials")), key=lambda row: row.rank)

    def n_trials(self) -> int:
        """Return the number of finished trials."""
        return int(self._db.table("trials").count)

    def best(self) -> TrialRow | None:
        """Return the winner, the first complete trial; None if no trial is complete."""
        order = "value desc, log_loss, trained_parameters, number"  # as TrialRow.rank
        rows = self._db.query(f"select * from trials where state = ? order by {order} limit 1", [COMPLETE])
        return next(map(_trial, rows), None)

    def winner(self) -> TrialRow | None:
        """Return the trial of the final model, or else the best trial; None if no trial is complete."""
        final = self.final()
        return self.trial(final.trial) if final else self.best()

    def trial(self, number: int) -> TrialRow | None:
        """Return a finished trial by its number; None if it does not exist."""
        return next(map(_trial, self._db.query("select * from trials where number = ?", [number])), None)

    def keep_fold(self, row: FoldRow) -> None:
        self._db.table("folds").upsert({**asdict(row), "finished": _now()}, pk=("trial", "fold"))
        self.mark("finals")

    def folds(self) -> list[FoldRow]:
        """Return all networks of the finals, by trial and fold."""
        rows = self._db.query("select * from folds order by trial, fold")
        return [FoldRow(**{name: row[name] for name in _FOLD_COLUMNS}) for row in rows]

    def keep_final(self, final: Final) -> None:
        """Save the final model: a new row, unless it is the same network as before."""
        before, number = self.final(), self.final_id()
        row = {"facts": json.dumps(final.to_json()), "finished": _now()}
        if before and number and before.network == final.network:
            self._db.table("finals").update(number, row)
        else:
            self._db.table("finals").insert(row, pk="id")
        self.mark("finals")

    def final(self) -> Final | None:
        """Return the final model; None in a study of an earlier version, or until the finals are over."""
        rows = list(self._db.query("select facts from finals order by id desc limit 1"))
        return Final.from_json(json.loads(rows[0]["facts"])) if rows else None

    def is_tested(self) -> bool:
        """Return whether the final model, or else the best trial, has been evaluated; True without a trial."""
        return self.best() is None or self.evaluation() is not None

    def last_states(self, n: int) -> list[str]:
        """Return the states of the n trials finished last, latest first."""
        rows = self._db.query("select state from trials order by position desc limit ?", [n])
        return [row["state"] for row in rows]

    def keep_evaluation(self, trial: int, seconds: float, scores: Evaluation) -> None:
        """Save one evaluation of the final model, or of the best trial if there is none. All are counted."""
        row = {"trial": trial, "final": self.final_id(), "finished": _now(), "seconds": seconds}
        self._db.table("evaluations").insert({**row, "scores": json.dumps(scores.to_json())}, pk="id")
        self.mark("test")

    def evaluation(self) -> Evaluation | None:
        """Return the latest evaluation of the final model, or of the best trial if there is none."""
        best, final = self.best(), self.final_id()
        if final is None:
            return self.trial_evaluation(best.number) if best else None
        return next((row.scores for row in reversed(self.evaluations()) if row.final == final), None)

    def trial_evaluation(self, number: int) -> Evaluation | None:
        """Return the latest evaluation of a trial's own network, or None."""
        rows = reversed(self.evaluations())
        return next((row.scores for row in rows if row.final is None and row.trial == number), None)

    def final_id(self) -> int | None:
        """Return the number of the final model; None if there is none yet."""
        return next((row["id"] for row in self._db.query("select max(id) as id from finals")), None)

    def evaluations(self) -> list[EvaluationRow]:
        """Return all evaluations on the test set, in order."""
        rows: Iterable[dict[str, Any]] = self._db.query("select * from evaluations order by id")
        return [EvaluationRow(**{**row, "scores": Evaluation.from_json(json.loads(row["scores"]))}) for row in rows]

    def keep_later(self, row: LaterRow, seconds: float) -> LaterRow:
        """Save one evaluation on later pictures, and return it as it is recorded."""
        facts = {name: value for name, value in row.to_json().items() if name not in ("id", "finished")}
        facts["final"] = self.final_id()
        kept = {"facts": json.dumps(facts), "finished": _now(), "seconds": seconds}
        self._db.table("later").insert(kept, pk="id")
        return self.later()[-1]

    def later(self) -> list[LaterRow]:
        """Return all evaluations on later pictures, in order."""
        rows = self._db.query("select id, facts, finished from later order by id")
        return [LaterRow.from_json({**json.loads(row.pop("facts")), **row}) for row in rows]

    def own_later(self) -> list[LaterRow]:
        """Return the evaluations of the final model, or else of the best trial, on later pictures."""
        best, final = self.best(), self.final_id()
        if final is None:
            return self.trial_later(best.number) if best else []
        return [row for row in self.later() if row.final == final]

    def trial_later(self, number: int) -> list[LaterRow]:
        """Return the evaluations of a trial's own network on later pictures."""
        return [row for row in self.later() if row.final is None and row.trial == number]

    def keep_comparison(self, row: ComparisonRow, seconds: float) -> None:
        """Save one comparison with the model of another study."""
        facts = {name: value for name, value in row.to_json().items() if name not in ("id", "finished")}
        kept = {"facts": json.dumps(facts), "finished": _now(), "seconds": seconds}
        self._db.table("comparisons").insert(kept, pk="id")

    def comparisons(self) -> list[ComparisonRow]:
        """Return all comparisons with models of other studies, in order."""
        rows = self._db.query("select id, facts, finished from comparisons order by id")
        return [ComparisonRow.from_json({**json.loads(row.pop("facts")), **row}) for row in rows]

    def keep_export(self, trial: int, folder: str, facts: Mapping[str, Any], is_final: bool) -> None:
        """Save one exported bundle. facts: the JSON object that the export printed. is_final: of the final model."""
        row = {"trial": trial, "folder": folder, "finished": _now(), "facts": json.dumps(facts)}
        self._db.table("exports").insert({**row, "final": self.final_id() if is_final else None}, pk="id")

    def bundle(self) -> ExportRow | None:
        """Return the latest bundle of the final model, or else of the best trial; None if it was not exported."""
        winner, final = self.winner(), self.final_id()
        rows = reversed(self.exports())
        return next((row for row in rows if winner and (row.trial, row.final) == (winner.number, final)), None)

    def exports(self) -> list[ExportRow]:
        """Return all exported bundles, in order."""
        rows = self._db.query("select * from exports order by id")
        return [ExportRow(**{**row, "facts": json.loads(row["facts"])}) for row in rows]

    def _keep_trial(self, number: int, params: Params, values: dict[str, Any]) -> None:
        known = self._db.query("select position from trials where number = ?", [number])
        position = next((row["position"] for row in known), self.n_trials())
        row = {"number": number, "position": position, "params": json.dumps(params.recorded()), "finished": _now()}
        self._db.table("trials").upsert({**row, **values}, pk="number")
        self.mark("trials")


def _trial(row: dict[str, Any]) -> TrialRow:
    columns = {name: value for name, value in row.items() if name in _TRIAL_COLUMNS}
    return TrialRow(**{**columns, "params": Params.from_record(json.loads(row["params"]))})


def _backbones(plain: Mapping[str, Any]) -> dict[str, BackboneFacts]:
    """Return backbones by name. Earlier versions did not repeat the name in the row."""
    pairs = {name: {**one, "name": name, "pixels": tuple(one["pixels"]), "depths": tuple(one["depths"])}
             for name, one in plain.items()}  # fmt: skip
    return {name: BackboneFacts(**one) for name, one in pairs.items()}


# Functions that convert facts from plain JSON to their types.
_TYPED: dict[str, Callable[[Any], Any]] = {
    "classes": tuple,
    "skipped": lambda rows: tuple(SkippedFile(**row) for row in rows),
    "cuts": lambda rows: {(name, pixels): tuple(cuts) for name, pixels, cuts in rows},
    "backbones": _backbones,
    "earlier_choices": lambda rows: tuple(Params.from_record(row) for row in rows),
    "look_alikes": lambda plain: {label: tuple(digests) for label, digests in plain.items()},
    "costs": profile_from_json,
    "run": lambda plain: Running(**plain),
    "visits": lambda plain: Visits(**{**plain, "by_picture": tuple(plain["by_picture"])}),
}


def _plain(name: str, value: Any) -> Any:
    """Convert a fact to plain JSON."""
    if name == "cuts":
        return [[*key, cuts] for key, cuts in value.items()]
    if name == "skipped":
        return [asdict(one) for one in value]
    if name == "earlier_choices":
        return [one.recorded() for one in value]
    if name in ("visits", "run", "costs"):
        return asdict(value)
    return {key: asdict(one) for key, one in value.items()} if name == "backbones" else value


def missing_file(folder: Path, name: str) -> StudyError:
    """Return the error for a study without one of its files, or with an empty one."""
    return StudyError(
        f"Study {folder.name} is incomplete: {folder / name} is missing or empty.",
        RESTORE,
    )


@contextmanager
def open_record(folder: Path) -> Iterator[Record]:
    """Open the record of a study and close it on exit. Raises StudyError if it cannot be read or written."""
    record = Record(folder / RECORD)
    try:
        yield record
    except sqlite3.DatabaseError as error:
        raise _unusable(folder / RECORD, error) from error
    finally:
        record.close()


def check_database(file: Path) -> None:
    """Raise StudyError if a database of a study is damaged."""
    try:
        with contextlib.closing(sqlite3.connect(file)) as database:
            (answer,) = database.execute("pragma quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        raise _unusable(file, error) from error
    if answer != "ok":
        raise StudyError(f"{file} is damaged: {answer.splitlines()[-1]}.", RESTORE)


def _unusable(file: Path, error: sqlite3.DatabaseError) -> StudyError:
    if getattr(error, "sqlite_errorname", "") == "SQLITE_BUSY":
        return StudyError(f"{file} {IN_USE}", WAIT)
    if isinstance(error, sqlite3.OperationalError):  # a full disk, a read-only folder
        return StudyError(
            f"{file} cannot be written: {error}.", "Free some disk space, then run the same command again to resume."
        )
    return StudyError(f"{file} is damaged: {error}.", RESTORE)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
