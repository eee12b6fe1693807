"""Compare two studies: their choices and scores, and their final models on the test pictures that both have."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.data.picture import Picture
from autotune.data.split import TEST, Split
from autotune.data.visits import visits_of
from autotune.errors import StudyError
from autotune.study.checks import recorded_split
from autotune.study.evaluate import class_numbers
from autotune.study.storage.comparisons import ComparisonRow, PairedScore
from autotune.study.storage.evaluations import Evaluation
from autotune.study.storage.record import open_record
from autotune.study.storage.rows import ExportRow
from autotune.study.summary import Summary, find_study, study_status
from autotune.training.metrics import paired_interval, score


@dataclass(frozen=True)
class Side:
    """One of the two studies. test: the evaluation of its final model. bundle: the latest one of it."""

    summary: Summary
    split: Split
    test: Evaluation
    bundle: ExportRow | None

    @property
    def bundle_bytes(self) -> int | None:
        """The size of the exported model.onnx; None if it was not exported."""
        table: Sequence[Mapping[str, Any]] = self.bundle.facts["table"] if self.bundle else ()
        return next((int(row["bytes"]) for row in table if row["format"] == "onnx"), None)


@dataclass(frozen=True)
class StudyComparison:
    """Two studies. shared: the final models on the test pictures of both; None without any. other_labels: pictures in
    both test sets with different labels. trained_on: test pictures of one study that the other has learned from, or
    that are in a group with such pictures. Both are left out. rows: recorded comparisons of the two models, where one
    study followed the other.
    """

    one: Side
    other: Side
    metric: str
    shared: PairedScore | None
    other_labels: int
    trained_on: int
    rows: tuple[ComparisonRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the object that --json prints."""
        return {
            "studies": [_side_json(side) for side in (self.one, self.other)],
            "metric": self.metric,
            "shared": self.shared and {**asdict(self.shared), "difference": self.shared.difference},
            "left_out": {"other_labels": self.other_labels, "trained_on": self.trained_on},
            "comparisons": [row.to_json() for row in self.rows],
        }


def _side_json(side: Side) -> dict[str, Any]:
    found = side.summary.to_json()
    names = ("study", "folder", "metric", "pictures", "trials", "best", "final", "test", "later", "seconds")
    return {**{name: found[name] for name in names}, "bundle_bytes": side.bundle_bytes}


def compare_studies(name: str, other: str) -> StudyComparison:
    """Compare two finished studies by what their records say. Nothing is trained or evaluated.

    Raises StudyError if a study has no test evaluation, or if no picture is in both.
    """
    one, two = _side(name), _side(other)
    if one.summary.folder == two.summary.folder:
        raise StudyError(f"{name} and {other} are the same study.", "Name two studies.")
    if not {p.digest for p in one.split.pictures} & {p.digest for p in two.split.pictures}:
        raise StudyError(
            f"Studies {name} and {other} share no picture.",
            f"Compare studies of the same pictures: autotune search PHOTOS --after {name}",
        )
    metric = one.summary.metric if one.summary.metric == two.summary.metric else "accuracy"
    learned = _learned(one.split) | _learned(two.split)
    places, other_labels = _shared_places(one.split.part(TEST), two.split.part(TEST), learned)
    in_both = {row.models for row in two.summary.comparisons}
    tested = {picture.digest for side in (one, two) for picture in side.split.part(TEST)}
    return StudyComparison(
        one=one,
        other=two,
        metric=metric,
        shared=_paired(metric, one, two, places) if len(places) else None,
        other_labels=other_labels,
        trained_on=len(tested & learned),
        rows=tuple(row for row in one.summary.comparisons if row.models in in_both),
    )


def _side(name: str) -> Side:
    folder, summary = find_study(name), study_status(name)
    with open_record(folder) as record:
        split = recorded_split(record, folder)
        test = record.evaluation()
        if test is None or not test.predicted:
            raise StudyError(
                f"Study {name} has no evaluation on its test set{'' if test is None else ' with each prediction'}.",
                "Finish its search." if test is None else f"Evaluate it again: autotune evaluate {name}",
            )
        return Side(summary, split, test, record.bundle())


def _learned(split: Split) -> set[str]:
    """Return the digests of pictures that a study has learned from, and of those in a group with them."""
    groups = {picture.group for picture in split.pictures if picture.group and picture.part != TEST}
    return {picture.digest for picture in split.pictures if picture.part != TEST or picture.group in groups}


def _shared_places(
    one: Sequence[Picture], other: Sequence[Picture], learned: Collection[str]
) -> tuple[NDArray[np.int64], int]:
    """Return the places (N, 2) of the pictures in both test sets, one of equal pictures, and how many have another
    label in the other study. learned: digests of pictures to leave out.
    """
    places = {picture.digest: place for place, picture in reversed(list(enumerate(other)))}
    first = {picture.digest: place for place, picture in reversed(list(enumerate(one)))}
    both = [(place, places[digest]) for digest, place in sorted(first.items(), key=lambda item: item[1])
            if digest in places and digest not in learned]  # fmt: skip
    same = [(a, b) for a, b in both if one[a].label == other[b].label]
    return np.array(same, dtype=np.int64).reshape(-1, 2), len(both) - len(same)


def _paired(metric: str, one: Side, two: Side, places: NDArray[np.int64]) -> PairedScore:
    pictures = [one.split.part(TEST)[place] for place in places[:, 0]]
    own = np.array(one.test.predicted)[places[:, 0]]
    others = in_classes(np.array(two.test.predicted)[places[:, 1]], two.split.classes, one.split.classes)
    by_visit = bool(one.summary.visits.n and two.summary.visits.n)
    return paired_score(metric, pictures, one.split.classes, own, others, by_visit)


def in_classes(numbers: NDArray[np.int64], given: Sequence[str], wanted: Sequence[str]) -> NDArray[np.int64]:
    """Convert numbers of the given classes, (N,), to those of the wanted ones; len(wanted) for a missing one."""
    places = {name: number for number, name in enumerate(wanted)}
    return np.array([places.get(name, len(wanted)) for name in given])[numbers]


def paired_score(
    metric: str, pictures: Sequence[Picture], classes: Sequence[str], own: NDArray[np.int64],
    others: NDArray[np.int64], by_visit: bool,
) -> PairedScore:  # fmt: skip
    """Score two models on the same pictures. own, others: predicted classes, (N,). by_visit: groups are visits."""
    labels = class_numbers(pictures, classes).numpy()
    n_classes = len(classes) + 1  # the last one is any that the study does not know
    visits = visits_of(pictures) if by_visit else None
    interval = paired_interval(metric, labels, own, others, n_classes, visits)
    return PairedScore(
        n=len(pictures),
        value=score(metric, labels, own, n_classes),
        other=score(metric, labels, others, n_classes),
        interval=interval,
        n_visits=len(set(visits or ())),
    )
