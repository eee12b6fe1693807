"""Validation: run the restored network of a trial on the validation set for scores, calibration and reference."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from autotune.data.split import VALIDATION
from autotune.errors import StudyError
from autotune.export.result import FittedCalibration
from autotune.export.verify import Reference
from autotune.study.evaluate import class_numbers, score_logits
from autotune.study.listener import StudyListener
from autotune.study.reopen import FinishedTrial
from autotune.study.rows import Evaluation
from autotune.text import percent
from autotune.training import calibration
from autotune.training.metrics import find_metric
from autotune.training.restore import TrainedNetwork, picture_logits


def validation_logits(finished: FinishedTrial, network: TrainedNetwork, listener: StudyListener) -> Tensor:
    """Return logits (N, C) of the validation pictures, from their files. Raises DataError if one changed."""
    return picture_logits(network, finished.root, finished.parts.part(VALIDATION), listener.progress("Validation"))


def score_restored(finished: FinishedTrial, logits: Tensor) -> Evaluation:
    """Score the restored network. Raises StudyError if the score differs from the trial's by more than one picture."""
    metric, pictures = finished.settings.metric, finished.parts.part(VALIDATION)
    if not logits.isfinite().all():
        raise StudyError(
            f"The outputs of trial {finished.trial.number} are not finite.", "Export another trial: --trial N"
        )
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
    """Fit the temperature and the threshold. precision: find the threshold that reaches it on validation.

    Raises ConfigError if no threshold reaches it.
    """
    assert scores.calibration  # of a fresh evaluation
    confidence, correct = np.array(scores.confidence), np.array(scores.right)
    at = threshold or 0.0
    if precision is not None:
        at = calibration.find_threshold(confidence, correct, precision)
    answered = {}
    if at:
        answered["validation"] = calibration.count_answered(confidence, correct, at)
        test = finished.record.evaluation(finished.trial.number)
        if test and test.confidence:
            confidence, correct = np.array(test.confidence), np.array(test.right)
            answered["test"] = calibration.count_answered(confidence, correct, at)
    return FittedCalibration(scores.calibration.temperature, at, answered)


def build_reference(finished: FinishedTrial, logits: Tensor, temperature: float) -> Reference:
    """Return the reference for every exported file: the calibrated probabilities of logits (N, C)."""
    pictures, classes = finished.parts.part(VALIDATION), finished.parts.classes
    probabilities = (logits / temperature).softmax(1).numpy()
    labels = class_numbers(pictures, classes).numpy()
    return Reference(finished.root, tuple(p.path for p in pictures), labels, classes, probabilities)
