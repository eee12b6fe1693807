"""Scores, calibration and reference predictions of a restored network."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from autotune.data.split import VALIDATION
from autotune.errors import StudyError
from autotune.export.result import FittedCalibration
from autotune.formats.tolerance import Reference
from autotune.study.evaluate import class_numbers, score_logits
from autotune.study.listener import StudyListener
from autotune.study.reopen import FinishedTrial
from autotune.study.storage.evaluations import Evaluation, latest_scores
from autotune.text import percent
from autotune.training import calibration
from autotune.training.metrics import find_metric
from autotune.training.novelty import NoveltyScore, distances
from autotune.training.restore import TrainedNetwork, picture_features


def validation_features(finished: FinishedTrial, network: TrainedNetwork, listener: StudyListener) -> Tensor:
    """Return what the head gets for the validation pictures (N, F), from their files.

    Raises DataError if a picture has changed, StudyError if the outputs are not finite.
    """
    pictures = finished.parts.part(VALIDATION)
    (features,) = picture_features([network], finished.root, pictures, listener.progress("Validation"))
    if not network.logits_of(features).isfinite().all():
        raise StudyError(
            f"The outputs of trial {finished.trial.number} are not finite.", "Export another trial: --trial N"
        )
    return features


def unseen_scores(finished: FinishedTrial, listener: StudyListener) -> Evaluation:
    """Score predictions on pictures that the predicting network was not trained on.

    These are the predictions of the networks of the folds, or else those of the trial's own network on the validation
    set. Raises StudyError if the trial's own network does not score as the study measured: then its backbone, of which
    the final model is made, is no longer the same.
    """
    own = _own_scores(finished, finished.own.logits_of(validation_features(finished, finished.own, listener)))
    held = finished.held_out
    if held is None:
        return own
    assert finished.final
    assert finished.final.temperature
    metric, classes = finished.settings.metric, finished.parts.classes
    return score_logits(metric, held.logits, held.pictures, classes, finished.final.temperature)


def _own_scores(finished: FinishedTrial, logits: Tensor) -> Evaluation:
    """Score the restored network. Raises StudyError if the score differs from the trial's by more than one picture."""
    metric, pictures = finished.settings.metric, finished.parts.part(VALIDATION)
    temperature = calibration.fit_temperature(logits, class_numbers(pictures, finished.parts.classes))
    scores = score_logits(metric, logits, pictures, finished.parts.classes, temperature)
    allowed = find_metric(metric).change_by_one([row.n for row in scores.per_class.values()])
    if abs(scores.value - (finished.trial.value or 0.0)) > allowed + 1e-9:
        raise StudyError(
            f"The restored network of trial {finished.trial.number} scores {percent(scores.value)} on validation; "
            f"the study measured {percent(finished.trial.value)}.",
            "Pass the same --weights and --plugins as before. If they are the same, please report a bug.",
        )
    return scores


def calibrate(
    finished: FinishedTrial, scores: Evaluation, threshold: float | None, precision: float | None
) -> FittedCalibration:
    """Return the temperature, and fit the threshold. precision: find the threshold that reaches it.

    scores: of `unseen_scores`. Raises ConfigError if no threshold reaches the precision.
    """
    assert scores.calibration  # of a fresh evaluation
    confidence, correct = np.array(scores.confidence), np.array(scores.right)
    at = threshold or 0.0
    if precision is not None:
        at = calibration.find_threshold(confidence, correct, precision)
    fitted_on = "validation" if finished.held_out is None else "held-out"
    known = {fitted_on: scores, "test": finished.test, "later": latest_scores(finished.later)}
    answered = {
        part: calibration.count_answered(np.array(one.confidence), np.array(one.right), at)
        for part, one in known.items()
        if at and one and one.confidence
    }
    return FittedCalibration(fitted_on, scores.calibration.temperature, at, answered)


def build_reference(
    finished: FinishedTrial, features: Tensor, temperature: float, novelty: NoveltyScore | None
) -> Reference:
    """Return the reference for every exported file: the outputs for the features (N, F) of validation pictures."""
    pictures, classes = finished.parts.part(VALIDATION), finished.parts.classes
    probabilities = (finished.trained.logits_of(features) / temperature).softmax(1).numpy()
    labels = class_numbers(pictures, classes).numpy()
    far = None if novelty is None else distances(novelty, features)
    return Reference(finished.root, tuple(p.path for p in pictures), labels, classes, probabilities, far)
