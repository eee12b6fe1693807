"""Evaluate a study's final model on pictures that came later. The test set and its scores are not used."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.cache import eviction
from autotune.cache.pixels import fill_pixels, pixel_rows
from autotune.data.catalog import LaterCatalog, read_later
from autotune.data.folder import UNLABELLED
from autotune.data.picture import Picture
from autotune.data.split import TRAIN, VALIDATION
from autotune.errors import DataError
from autotune.study.evaluate import score_logits, validation_temperature
from autotune.study.listener import StudyListener
from autotune.study.reopen import FinishedTrial, reopen_trial
from autotune.study.request import Resources
from autotune.study.storage.evaluations import ClassScore, Drift, LaterRow, LaterScores
from autotune.study.storage.lock import lock_study
from autotune.study.storage.record import open_record
from autotune.study.summary import find_study
from autotune.training.batches import LabelledPictures
from autotune.training.probe import last_features
from autotune.training.restore import picture_logits

N_RESAMPLES = 2000


def evaluate_later(name: str, source: Path, resources: Resources, listener: StudyListener, group_by: str) -> LaterRow:
    """Evaluate the final model on a folder or table of later pictures, and record the result.

    Copies of the study's pictures are left out. Pictures without a label, or with one that the study does not know, are
    used for the drift only. group_by: as in `group_by_visit`. Raises DataError if nothing is left to evaluate.
    """
    start = time.monotonic()
    folder = find_study(name)
    with eviction.in_use(), lock_study(folder), open_record(folder) as record:
        one = reopen_trial(folder, record, resources, listener)
        read = read_later(source, one.parts.pictures, one.root, group_by, listener.progress("Reading"),
                          listener.progress("Reading the study's pictures"))  # fmt: skip
        kept = _without_copies(read, source, name)
        drift = _drift(one, read.catalog.root, kept, listener)
        if drift:
            listener.say(drift.words)
        known = [picture for picture in kept if picture.label in one.parts.classes]
        row = LaterRow(
            trial=one.trial.number,
            source=str(source.resolve()),
            root=str(read.catalog.root.resolve()),
            n_read=len(read.catalog.pictures),
            copies=dict(read.copies),
            unlabelled=sum(picture.label == UNLABELLED for picture in kept),
            unknown=_unknown(kept, one.parts.classes),
            missing=tuple(sorted(set(one.parts.classes) - {picture.label for picture in known})) if known else (),
            skipped=read.catalog.skipped,
            drift=drift,
            scores=_scores(one, read, known, listener) if known else None,
        )
        listener.close()
        return record.keep_later(row, time.monotonic() - start)


def _without_copies(read: LaterCatalog, source: Path, study: str) -> list[Picture]:
    kept = [picture for picture in read.catalog.pictures if picture.path not in read.copies]
    if not kept:
        raise DataError(
            f"All {len(read.copies)} pictures of {source} are copies of pictures of study {study}.",
            "Name a folder of pictures that were taken later.",
        )
    return kept


def _unknown(pictures: Sequence[Picture], classes: Sequence[str]) -> Mapping[str, int]:
    """Return the number of pictures by label, of the labels that the study does not know."""
    found = Counter(picture.label for picture in pictures if picture.label not in (*classes, UNLABELLED))
    return dict(sorted(found.items()))


def _scores(
    one: FinishedTrial, read: LaterCatalog, pictures: Sequence[Picture], listener: StudyListener
) -> LaterScores:
    logits = picture_logits(one.trained, read.catalog.root, pictures, listener.progress("Predicting"))
    temperature = one.final.temperature if one.final else None
    if temperature is None:
        temperature = validation_temperature(one.own, one.root, one.parts, listener.progress("Calibrating"))
    found = score_logits(
        one.context.metric, logits, pictures, one.parts.classes, temperature, by_visit=read.catalog.visits.n > 0
    )
    fell = _fall(found.per_class, one.test.per_class) if one.test else {}
    bundle = one.record.bundle()
    threshold = float(bundle.facts.get("threshold") or 0.0) if bundle else 0.0
    return LaterScores(found, fell, found.answered(threshold) if threshold else None)


def _fall(later: Mapping[str, ClassScore], test: Mapping[str, ClassScore]) -> dict[str, float]:
    """Return test recall minus later recall of the classes with pictures in both, the largest fall first."""
    both = {name: test[name].recall - row.recall for name, row in later.items() if row.n and name in test}
    return dict(sorted(both.items(), key=lambda item: (-item[1], item[0])))


def _drift(one: FinishedTrial, root: Path, later: Sequence[Picture], listener: StudyListener) -> Drift | None:
    """Measure how much farther later pictures are from the training pictures than the validation pictures are.

    Distances are to the nearest training picture, among the features of the pretrained network. The effect is Cohen's
    d: the difference of the means over the standard deviation. Labels are not used. None for a network from scratch.
    """
    params = one.trial.params
    if one.context.is_from_scratch(params.backbone):
        return None
    rows = pixel_rows(params.pixels, one.trained.interpolation)
    pool = [*one.parts.part(TRAIN), *one.parts.part(VALIDATION)]
    fill_pixels(rows, one.root, pool, one.trained.interpolation, listener.progress("Decoding the study's pictures"))
    fill_pixels(rows, root, later, one.trained.interpolation, listener.progress("Decoding"))
    train, validation, new = (
        _features(one, pictures, listener) for pictures in (one.parts.part(TRAIN), one.parts.part(VALIDATION), later)
    )
    near, far = _distances(validation, train), _distances(new, train)
    rng = np.random.default_rng(0)
    drawn = [_effect(rng.choice(near, len(near)), rng.choice(far, len(far))) for _ in range(N_RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Drift(_effect(near, far), (float(low), float(high)), len(far), len(near))


def _features(one: FinishedTrial, pictures: Sequence[Picture], listener: StudyListener) -> NDArray[np.float32]:
    """Return features (N, F) of unit length."""
    params = one.trial.params
    some = LabelledPictures(tuple(picture.digest for picture in pictures), (0,) * len(pictures))
    cache = one.backbones.feature_cache(params.backbone, params.pixels)
    cache.fill({0: some.digests}, listener.progress("Feature cache"))
    found, _ = last_features(one.backbones, params.backbone, params.pixels, some)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.maximum(lengths, 1e-6), dtype=np.float32)


def _distances(features: NDArray[np.float32], train: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the distance of each picture to the nearest training picture, (N,): 1 - cosine."""
    return np.array([1.0 - float((train @ row).max()) for row in features])


def _effect(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    spread = float(np.sqrt((before.var() + after.var()) / 2))
    return float(after.mean() - before.mean()) / max(spread, 1e-9)
