"""The summary of a study, for the command line, the report and Python."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autotune.data.visits import Visits
from autotune.errors import StudyError, did_you_mean
from autotune.study.reproduce import reproduction
from autotune.study.storage.comparisons import ComparisonRow
from autotune.study.storage.evaluations import Evaluation, LaterRow
from autotune.study.storage.lock import is_in_use
from autotune.study.storage.record import RECORD, TRIALS, Record, missing_file, open_record
from autotune.study.storage.rows import COMPLETE, STATES, BackboneFacts, Final, ProbeRow, Running, TrialRow
from autotune.text import percent, plural

STUDIES = Path("studies")
KINDS = ("read", "trials", "finals", "test", "other")  # of work, in the seconds of a study

_IN_BOARD = (
    "number", "name", "state", "value", "epochs", "ended", "seconds", "log_loss", "best_epoch", "trained_parameters",
    "error", "n_parts",
)  # fmt: skip

_OF_EACH_PICTURE = ("right", "confidence", "predicted")


@dataclass(frozen=True)
class StudySeconds:
    """The time that a study has taken over all runs, by kind of work. trials: with the probes. other: starting, saving.

    cache: of the workers, to fill the feature cache; it is a part of trials and finals.
    """

    read: float
    trials: float
    finals: float
    test: float
    other: float
    cache: float

    @property
    def total(self) -> float:
        return self.read + self.trials + self.finals + self.test + self.other


@dataclass(frozen=True)
class Summary:
    """The current results of a study. pictures: counts by part. leaderboard: finished trials, the winner first.

    final: the final model; None in a study of an earlier version, or until the finals are over. test: the latest
    evaluation of the final model, or else of the best trial; n_evaluations: the number of all, also of earlier models.
    later: evaluations of the same model on later pictures, in order; later_before: of earlier models. comparisons:
    of this model with those of studies that this one followed, or that followed this one; comparisons_before: of
    earlier models. visits: how the pictures are grouped.
    asked: the trials that the latest run was to reach. running: that run, if it has not ended.
    settings: the definition of the study. data: the DATA argument of the search. after: the
    folder of the study that this one follows.
    """

    study: str
    folder: Path
    metric: str
    classes: tuple[str, ...]
    pictures: Mapping[str, int]
    leaderboard: tuple[TrialRow, ...]
    backbones: Mapping[str, BackboneFacts]
    probes: tuple[ProbeRow, ...]
    left_out: Mapping[str, str]
    final: Final | None
    test: Evaluation | None
    n_evaluations: int
    later: tuple[LaterRow, ...]
    later_before: tuple[LaterRow, ...]
    comparisons: tuple[ComparisonRow, ...]
    comparisons_before: tuple[ComparisonRow, ...]
    visits: Visits
    asked: int
    running: Running | None
    seconds: StudySeconds
    settings: Mapping[str, Any]
    data: str
    after: str | None

    @property
    def best(self) -> TrialRow | None:
        """The trial with the best validation score; None if no trial is complete."""
        first = self.leaderboard[0] if self.leaderboard else None
        return first if first and first.state == COMPLETE else None

    @property
    def is_decided(self) -> bool:
        """Whether there is a winner: a final model or, in a study of an earlier version, a trial that was evaluated."""
        return self.final is not None or self.test is not None

    @property
    def winner(self) -> TrialRow:
        """The trial of the final model, or else the best trial. Raises StudyError if no trial is complete."""
        if self.best is None:
            raise StudyError(f"Study {self.study} has no complete trial.", "Run the search again until one completes.")
        if self.final is None:
            return self.best
        return next(row for row in self.leaderboard if row.number == self.final.trial)

    @property
    def passed_over(self) -> tuple[TrialRow, ...]:
        """Trials that were better than a finalist on the validation set, but too expensive for the finals."""
        numbers = self.final.passed_over if self.final else ()
        return tuple(row for row in self.leaderboard if row.number in numbers)

    @property
    def n_trials(self) -> dict[str, int]:
        """Finished trials by state, and in total."""
        counts = Counter(row.state for row in self.leaderboard)
        return {**{state: counts[state] for state in STATES}, "total": len(self.leaderboard)}

    @property
    def scope(self) -> str:
        backbone = self.winner.params.backbone if self.best else None
        return describe_scope(self.study, self.visits, self.test, self.probes, backbone, was_measured_later(self.later))

    def command(self, n_trials: int) -> str:
        """Return the command that continues the search. The study.toml in the study's folder is read anyway."""
        whole = reproduction(self.settings, self.data, self.study, n_trials, self.after).command
        return whole.replace(" --config study.toml", "" if (self.folder / "study.toml").is_file() else " --config FILE")

    def describe(self, row: TrialRow) -> str:
        """Describe a trial's hyperparameters in one line."""
        return self.backbones[row.params.backbone].describe(row.params)

    def to_json(self) -> dict[str, Any]:
        """Return the object that --json prints."""
        return {
            "study": self.study,
            "folder": str(self.folder),
            "metric": self.metric,
            "classes": list(self.classes),
            "pictures": dict(self.pictures),
            "trials": self.n_trials,
            "best": self.best and self._best_json(self.best),
            "leaderboard": [self._board_json(row) for row in self.leaderboard],
            "probes": [asdict(row) for row in self.probes],
            "left_out": dict(self.left_out),
            "finals": self.final.to_json()["finalists"] if self.final else [],
            "final": self.final and self._final_json(self.final),
            "test": self.test and self._test_json(self.test),
            "test_evaluations": self.n_evaluations,
            "scope": self.scope,
            "visits": self.visits.to_json(),
            "later": [row.to_json() for row in self.later],
            "later_before": [row.to_json() for row in self.later_before],
            "comparisons": [row.to_json() for row in self.comparisons],
            "comparisons_before": [row.to_json() for row in self.comparisons_before],
            "running": self.running and asdict(self.running),
            "seconds": {**asdict(self.seconds), "total": self.seconds.total},
        }

    def _board_json(self, row: TrialRow) -> dict[str, Any]:
        columns = {name: getattr(row, name) for name in _IN_BOARD}
        return {**columns, "params": row.params.recorded(), "words": self.describe(row)}

    def _best_json(self, row: TrialRow) -> dict[str, Any]:
        return {
            "number": row.number,
            "value": row.value,
            "params": row.params.recorded(),
            "log_loss": row.log_loss,
            "checkpoint": str((self.folder / str(row.checkpoint)).resolve()),
            "words": self.describe(row),
        }

    def _final_json(self, final: Final) -> dict[str, Any]:
        rest = {name: value for name, value in final.to_json().items() if name != "finalists"}
        return {**rest, "checkpoint": str((self.folder / final.checkpoint).resolve())}

    def _test_json(self, test: Evaluation) -> dict[str, Any]:
        """Return an evaluation without the values of each picture."""
        scores = {name: value for name, value in test.to_json().items() if name not in _OF_EACH_PICTURE}
        return {"evaluations": self.n_evaluations, "trial": self.winner.number, **scores}


def describe_scope(
    study: str,
    visits: Visits,
    test: Evaluation | None,
    probes: Sequence[ProbeRow],
    backbone: str | None,
    measured_later: bool,
) -> str:
    """Say which pictures a test score is about. backbone: of the winner."""
    if not visits.n:
        like_these = (
            "No visits are known, so the score is for pictures like these; pictures of other days and places may be "
            "harder."
        )
        command = f"autotune evaluate {shlex.quote(study)} --on LATER"
        return like_these if measured_later else f"{like_these} Measure it on later pictures: {command}"
    sentences = []
    if test and test.n_visits:
        of_groups = plural(test.n_visits, visits.noun)
        sentences.append(f"The test pictures are of {of_groups} that no training picture is of.")
    if visits.by_picture:
        sentences.append(f"Split by picture, because of too few visits: {', '.join(visits.by_picture)}.")
    probe = next((row for row in probes if row.backbone == backbone), None)
    if probe and probe.by_picture is not None and probe.by_visit is not None:
        sentences.append(
            "What a split by picture would have claimed, by a cross-validated linear probe: "
            f"{percent(probe.by_picture)}, instead of {percent(probe.by_visit)} by {visits.noun}."
        )
    return " ".join(sentences)


def was_measured_later(rows: Sequence[LaterRow]) -> bool:
    """Return whether an evaluation on later pictures has a score."""
    return any(row.scores for row in rows)


def study_status(name: str) -> Summary:
    """Return the current summary of a study, also while it runs. Raises StudyError if it has not started."""
    folder = find_study(name)
    with open_record(folder) as record:
        if record.facts().definition is None:
            doing = "is starting: it reads its pictures" if is_in_use(folder) else "has not started"
            raise StudyError(f"Study {name} {doing}.", "Wait a moment, or start it with `autotune search`.")
        return _summary(record, folder)


def find_study(name: str) -> Path:
    """Return a study's folder by name or path. Raises StudyError."""
    for folder in (STUDIES / name, Path(name)):
        if (folder / RECORD).is_file():
            return folder
        if (folder / TRIALS).is_file():
            raise missing_file(folder, RECORD)
    known = [file.parent.name for file in STUDIES.glob(f"*/{RECORD}")]
    fix = did_you_mean(name, known) if known else "Start one: autotune search PHOTOS"
    raise StudyError(f"No study named {name!r} in {STUDIES.resolve()}.", fix)


def _summary(record: Record, folder: Path) -> Summary:
    facts, rows, probes = record.facts(), record.trials(), record.probes()
    later, compared = record.own_later(), record.comparisons()
    cache = sum(row.cache_seconds or 0.0 for row in rows) + sum(row.cache_seconds for row in probes)
    cache += sum(row.cache_seconds or 0.0 for row in record.folds())
    return Summary(
        study=folder.name,
        folder=folder.resolve(),
        metric=facts.settings["metric"],
        classes=facts.classes,
        pictures=facts.pictures,
        leaderboard=tuple(rows),
        backbones=facts.backbones or {},
        probes=tuple(probes),
        left_out=facts.left_out,
        final=record.final(),
        test=record.evaluation(),
        n_evaluations=len(record.evaluations()),
        later=tuple(later),
        later_before=tuple(row for row in record.later() if row not in later),
        comparisons=tuple(row for row in compared if row.concerns(folder, record.final_id())),
        comparisons_before=tuple(row for row in compared if not row.concerns(folder, record.final_id())),
        visits=facts.visits,
        asked=facts.run.asked if facts.run else len(rows),
        running=facts.run if is_in_use(folder) else None,
        seconds=StudySeconds(cache=cache, **{name: facts.seconds.get(name, 0.0) for name in KINDS}),
        settings=facts.settings,
        data=facts.data,
        after=facts.after,
    )
