"""Evaluations of a study's final model, on its test set and on later pictures, as rows of its record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autotune.data.folder import SkippedFile

EFFECTS = (("very small", 0.2), ("small", 0.5), ("medium", 0.8))  # of Cohen's d (Cohen 1988)


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class. n: its pictures; right: the correct predictions among them."""

    n: int
    right: int
    recall: float
    precision: float


@dataclass(frozen=True)
class Mistake:
    """A misclassified picture. answer: the predicted label; probability: of that label."""

    path: str
    label: str
    answer: str
    probability: float


@dataclass(frozen=True)
class CalibrationError:
    """The expected calibration error, in [0, 1], before and after dividing the logits by temperature."""

    temperature: float
    error_before: float
    error_after: float


@dataclass(frozen=True)
class Counted:
    """Correct predictions among n pictures."""

    right: int
    n: int


@dataclass(frozen=True)
class Answered:
    """How many of n predictions reach a threshold, and how many of these are right."""

    threshold: float
    n: int
    answered: int
    right: int


@dataclass(frozen=True)
class Evaluation:
    """The scores of a trained network on n pictures. value: of the study's metric, with its 95 % interval; interval:
    of the accuracy. confusion: rows are true classes, columns predicted ones. right: whether each prediction is
    correct; confidence: of each; predicted: the number of its class; all in the split's order, and empty in records of
    earlier versions. mistakes: the most confident first. n_visits: of these pictures; 0 if visits are not known.
    """

    n: int
    value: float
    value_interval: tuple[float, float]
    accuracy: float
    interval: tuple[float, float]
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
    per_class: Mapping[str, ClassScore]
    confusion: tuple[tuple[int, ...], ...]
    calibration: CalibrationError | None = None
    right: tuple[bool, ...] = ()
    confidence: tuple[float, ...] = ()
    predicted: tuple[int, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    n_visits: int = 0

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Evaluation:
        calibration = plain.get("calibration")
        return cls(
            **{name: plain[name] for name in ("n", "value", "accuracy", "balanced_accuracy", "macro_f1", "log_loss")},
            value_interval=tuple(plain["value_interval"]),
            interval=tuple(plain["interval"]),
            per_class={name: ClassScore(**one) for name, one in plain["per_class"].items()},
            confusion=tuple(tuple(row) for row in plain["confusion"]),
            calibration=CalibrationError(**calibration) if calibration else None,
            right=tuple(plain.get("right", ())),
            confidence=tuple(plain.get("confidence", ())),
            predicted=tuple(plain.get("predicted", ())),
            mistakes=tuple(Mistake(**one) for one in plain["mistakes"]),
            n_visits=plain.get("n_visits", 0),
        )

    def of_classes(self, names: Iterable[str]) -> Counted:
        """Count the pictures of some classes."""
        rows = [self.per_class[name] for name in names if name in self.per_class]
        return Counted(sum(row.right for row in rows), sum(row.n for row in rows))

    def answered(self, threshold: float) -> Answered:
        """Count the predictions that reach a threshold."""
        reached = [right for right, one in zip(self.right, self.confidence, strict=True) if one >= threshold]
        return Answered(threshold, len(self.right), len(reached), sum(reached))

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # lists for tuples
        return plain


@dataclass(frozen=True)
class Drift:
    """How far later pictures are from the study's. effect: Cohen's d of the distance to the nearest training picture,
    later pictures minus validation pictures, with its 95 % interval. n: later pictures; n_before: validation pictures.
    """

    effect: float
    interval: tuple[float, float]
    n: int
    n_before: int

    @property
    def words(self) -> str:
        low, high = self.interval
        size = next((name for name, most in EFFECTS if abs(self.effect) < most), "large")
        return (
            f"Drift: later pictures are {self.effect:.2f} standard deviations (95 % interval {low:.2f} to {high:.2f}, "
            f"n = {self.n}) farther from the training pictures than the validation pictures are, a {size} difference."
        )


@dataclass(frozen=True)
class LaterScores:
    """The scores on later pictures. fall: by class, recall on the test set minus recall here, the largest first.

    answered: at the threshold of the latest bundle; None without one.
    """

    evaluation: Evaluation
    fall: Mapping[str, float]
    answered: Answered | None


@dataclass(frozen=True)
class LaterRow:
    """One evaluation on later pictures. final: the number of the final model; None: the trial's own network.

    source: their folder or table; root: of their paths. n_read: readable pictures in it. copies: of the study's
    pictures, which are left out: path and the path of the study's. unknown: pictures by label, of labels that the study
    does not know. missing: classes of the study without later pictures. scores: None without known labels.
    """

    trial: int
    source: str
    root: str
    n_read: int
    copies: Mapping[str, str]
    unlabelled: int
    unknown: Mapping[str, int]
    missing: tuple[str, ...]
    skipped: tuple[SkippedFile, ...]
    drift: Drift | None
    scores: LaterScores | None
    final: int | None = None
    finished: str = ""
    id: int = 0

    @property
    def model(self) -> str:
        """The network that was evaluated."""
        return f"trial {self.trial}, as trained" if self.final is None else f"final model, of trial {self.trial}"

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> LaterRow:
        drift, scores = plain["drift"], plain["scores"]
        answered = scores["answered"] if scores else None
        return cls(**{
            **plain,
            "missing": tuple(plain["missing"]),
            "skipped": tuple(SkippedFile(**one) for one in plain["skipped"]),
            "drift": Drift(**{**drift, "interval": tuple(drift["interval"])}) if drift else None,
            "scores": scores and LaterScores(
                Evaluation.from_json(scores["evaluation"]), scores["fall"], Answered(**answered) if answered else None
            ),
        })  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # lists for tuples
        return plain


def latest_scores(rows: Sequence[LaterRow]) -> Evaluation | None:
    """Return the scores of the latest evaluation on later pictures that has some."""
    return next((one.scores.evaluation for one in reversed(rows) if one.scores), None)


@dataclass(frozen=True)
class EvaluationRow:
    """One evaluation on the test set. final: the number of the final model; None: the trial's own network."""

    id: int
    trial: int
    final: int | None
    finished: str
    seconds: float
    scores: Evaluation
