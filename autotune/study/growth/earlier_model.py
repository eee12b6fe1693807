"""Compare the final model of a study with that of the earlier study that it followed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.data.picture import Picture
from autotune.data.split import TEST, carried_parts
from autotune.data.visits import visits_of
from autotune.errors import AutotuneError, StudyError
from autotune.study.engines import driver_device
from autotune.study.evaluate import class_numbers
from autotune.study.growth.after import changes
from autotune.study.growth.compare import in_classes, paired_score
from autotune.study.listener import StudyListener
from autotune.study.prepare import Prepared
from autotune.study.reopen import FinishedTrial, reopen_trial
from autotune.study.request import Resources, SearchRequest
from autotune.study.storage.comparisons import ComparisonRow, Score
from autotune.study.storage.lock import lock_study
from autotune.study.storage.record import RECORD, Record, open_record
from autotune.study.timing.limits import alarm
from autotune.training.metrics import predicted_classes, score, score_interval
from autotune.training.restore import picture_logits


def compare_with_earlier(
    request: SearchRequest, ready: Prepared, record: Record, listener: StudyListener, deadline: float | None
) -> None:
    """Evaluate the earlier study's final model on this study's pictures, and record the result in both studies.

    What it has learned from is left out. If it cannot be evaluated, the reason is shown; the search still succeeds, and
    the next run of the same command tries again. deadline: on time.monotonic's clock.
    """
    after, model = record.facts().after, record.final_id()
    if after is None or record.evaluation() is None:
        return
    if any(row.is_of(ready.folder, model) for row in record.comparisons()):
        return
    record.keep_doing("comparison with the earlier study", "test")
    start, earlier = time.monotonic(), Path(after)
    if not earlier.exists():  # both studies may have been moved
        earlier = ready.folder.parent / earlier.name
    try:
        with alarm(deadline):
            row = _compare(request, ready, record, listener, earlier)
    except (AutotuneError, OSError, torch.OutOfMemoryError) as error:
        reason = error.problem if isinstance(error, AutotuneError) else str(error)
        listener.say(f"Not compared with study {earlier.name}: {reason}")
    else:
        record.keep_comparison(row, time.monotonic() - start)
    record.mark("test")


def _compare(
    request: SearchRequest, ready: Prepared, record: Record, listener: StudyListener, earlier: Path
) -> ComparisonRow:
    """Compare, and record the result in the earlier study."""
    if not (earlier / RECORD).is_file():  # locking it would create its folder again
        raise StudyError(f"{earlier} does not exist any more.", "Restore it, and run the same command again.")
    start, resources = time.monotonic(), Resources(driver_device(request), request.weights, request.plugins)
    with lock_study(earlier), open_record(earlier) as old_record:
        old = reopen_trial(earlier, old_record, resources, listener)
        row = _comparison(old, ready, record, listener)
        if not any(known.is_of(ready.folder, row.later_model) for known in old_record.comparisons()):
            old_record.keep_comparison(row, time.monotonic() - start)
    return row


def _comparison(old: FinishedTrial, ready: Prepared, record: Record, listener: StudyListener) -> ComparisonRow:
    parts, test, metric = ready.split, record.evaluation(), ready.settings.metric
    assert test
    new = _unseen(old.parts.pictures, parts.pictures)
    places = [i for i, picture in enumerate(parts.part(TEST)) if picture.label in old.parts.classes]
    tested, known = [parts.part(TEST)[i] for i in places], [p for p in new if p.label in old.parts.classes]
    if not tested:
        raise StudyError("It knows none of the classes of the test pictures.", "Compare other studies.")
    predicted = _predict(old, ready, tested, listener)
    found = changes(old.folder.name, old.parts.pictures, parts.pictures)
    return ComparisonRow(
        later=str(ready.folder.resolve()),
        earlier=str(old.folder.resolve()),
        metric=metric,
        later_model=record.final_id(),
        earlier_model=old.record.final_id(),
        added=found.added,
        gone=found.gone,
        unknown=len(parts.part(TEST)) - len(tested) + len(new) - len(known),
        fresh=_score(old, ready, known, listener) if known else None,
        test=paired_score(
            metric, tested, parts.classes, np.array(test.predicted)[places], predicted, parts.visits.n > 0
        ),
    )


def _unseen(old: Sequence[Picture], now: Sequence[Picture]) -> list[Picture]:
    """Return the new pictures outside the test set, without those of a group that has old pictures."""
    known = carried_parts(old, now)
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
    metric, classes = ready.settings.metric, ready.split.classes
    labels, predicted = class_numbers(pictures, classes).numpy(), _predict(old, ready, pictures, listener)
    n_classes = len(classes) + 1  # the last one is any that this study does not have
    visits = visits_of(pictures) if ready.split.visits.n else None
    interval = score_interval(metric, labels, predicted, n_classes, visits)
    return Score(len(pictures), score(metric, labels, predicted, n_classes), interval, len(set(visits or ())))
