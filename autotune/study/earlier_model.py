"""Compare the final model of a study with that of the earlier study that it followed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.data.picture import Picture
from autotune.data.split import TEST
from autotune.data.visits import visits_of
from autotune.errors import AutotuneError
from autotune.study.after import changes
from autotune.study.compare import in_classes, paired_score
from autotune.study.listener import StudyListener
from autotune.study.prepare import Prepared
from autotune.study.reopen import FinishedTrial, reopen_trial
from autotune.study.request import Resources, SearchRequest
from autotune.study.storage.comparisons import ComparisonRow, Score
from autotune.study.storage.lock import lock_study
from autotune.study.storage.record import Record, open_record
from autotune.training.metrics import predicted_classes, score, score_interval, visit_interval
from autotune.training.restore import picture_logits


def compare_with_earlier(request: SearchRequest, ready: Prepared, record: Record, listener: StudyListener) -> None:
    """Evaluate the earlier study's final model on this study's pictures, and record the result in both studies.

    What it has learned from is left out. If it cannot be evaluated, the search is told why, and has ended well.
    """
    after = record.facts().after
    if after is None or record.is_compared() or record.evaluation() is None:
        return
    record.keep_doing("comparison with the earlier study", "test")
    earlier, start = Path(after), time.monotonic()
    resources = Resources(request.device, request.weights, request.plugins)
    try:
        with lock_study(earlier), open_record(earlier) as old_record:
            old = reopen_trial(earlier, old_record, resources, listener)
            row = _comparison(old, ready, record, listener)
            old_record.keep_comparison(replace(row, model=row.other_model, other_model=row.model), start)
    except (AutotuneError, OSError) as error:
        reason = error.problem if isinstance(error, AutotuneError) else str(error)
        listener.say(f"Not compared with study {earlier.name}: {reason}")
        return
    record.keep_comparison(row, start)
    record.mark("test")


def _comparison(old: FinishedTrial, ready: Prepared, record: Record, listener: StudyListener) -> ComparisonRow:
    parts, test = ready.split, record.evaluation()
    assert test
    metric = ready.settings.metric
    predicted = _predict(old, ready, parts.part(TEST), listener)
    new = _unseen(old.parts.pictures, parts.pictures)
    fresh = _score(old, ready, new, listener) if new else None
    found = changes(old.folder.name, old.parts.pictures, parts.pictures)
    paired = paired_score(metric, parts.part(TEST), parts.classes, np.array(test.predicted), predicted,
                          parts.visits.n > 0)  # fmt: skip
    return ComparisonRow(
        later=ready.folder.name,
        earlier=old.folder.name,
        metric=metric,
        model=record.final_id(),
        other_model=old.record.final_id(),
        added=found.added,
        gone=found.gone,
        fresh=fresh,
        test=paired,
    )


def _unseen(old: Sequence[Picture], now: Sequence[Picture]) -> list[Picture]:
    """Return the new pictures outside the test set, without those of a group that has old pictures."""
    known = {picture.digest for picture in old}
    groups = {picture.group for picture in now if picture.group and picture.digest in known}
    return [
        picture
        for picture in now
        if picture.part != TEST and picture.digest not in known and picture.group not in groups
    ]


def _predict(
    old: FinishedTrial, ready: Prepared, pictures: Sequence[Picture], listener: StudyListener
) -> NDArray[np.int64]:
    """Return the classes that the earlier model predicts, as numbers of this study's, (N,)."""
    logits = picture_logits(old.trained, ready.root, pictures, listener.progress("Earlier model"))
    return in_classes(predicted_classes(logits), old.parts.classes, ready.split.classes)


def _score(old: FinishedTrial, ready: Prepared, pictures: Sequence[Picture], listener: StudyListener) -> Score:
    """Score the earlier model on pictures that it has not learned from."""
    metric, classes, visits = ready.settings.metric, ready.split.classes, visits_of(pictures)
    predicted = _predict(old, ready, pictures, listener)
    labels = np.array([classes.index(picture.label) for picture in pictures])
    n_visits = len(set(visits)) if ready.split.visits.n else 0
    n_classes = len(classes) + 1  # the last one is any that this study does not have
    if n_visits > 1:
        interval = visit_interval(metric, labels, predicted, n_classes, visits)
    else:
        interval = score_interval(metric, labels, predicted, n_classes)
    return Score(len(pictures), score(metric, labels, predicted, n_classes), interval, n_visits)
