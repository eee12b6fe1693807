"""Validation: the trial's network, put together again, on the validation pictures: scores, calibration, reference."""

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
    """Logits (N, C) of the validation pictures, from their files. Raises DataError where one is gone or has changed."""
    return picture_logits(network, finished.root, finished.parts.part(VALIDATION), listener.progress("Validation"))


def score_restored(finished: FinishedTrial, logits: Tensor) -> Evaluation:
    """The scores of the restored network. Raises StudyError where they are not the trial's, within one picture."""
    metric, pictures = finished.settings.metric, finished.parts.part(VALIDATION)
    if not logits.isfinite().all():
        raise StudyError(f"Trial {finished.trial.number} answers with no numbers.", "Export another one: --trial N")
    temperature = calibration.fit_temperature(logits, class_numbers(pictures, finished.parts.classes))
    scores = score_logits(metric, logits, pictures, finished.parts.classes, temperature)
    allowed = find_metric(metric).change_by_one([row.n for row in scores.per_class.values()])
    if abs(scores.value - (finished.trial.value or 0.0)) > allowed + 1e-9:
        raise StudyError(
            f"Trial {finished.trial.number} put together again scores {percent(scores.value)} on validation; "
            f"the study measured {percent(finished.trial.value)}.",
            "Name the same --weights and --plugins as before; if they are the same, this is a bug: please report it.",
        )
    return scores


def calibrate(
    finished: FinishedTrial, scores: Evaluation, threshold: float | None, precision: float | None
) -> FittedCalibration:
    """Temperature and threshold. precision: find the threshold that reaches it on validation.

    Raises ConfigError where none does.
    """
    assert scores.calibration  # of a fresh evaluation
    confidence, right = np.array(scores.confidence), np.array(scores.right)
    at = threshold or 0.0
    if precision is not None:
        at = calibration.find_threshold(confidence, right, precision)
    answered = {}
    if at:
        answered["validation"] = calibration.count_answered(confidence, right, at)
        test = finished.record.evaluation(finished.trial.number)
        if test and test.confidence:
            confidence, right = np.array(test.confidence), np.array(test.right)
            answered["test"] = calibration.count_answered(confidence, right, at)
    return FittedCalibration(scores.calibration.temperature, at, answered)


def build_reference(finished: FinishedTrial, logits: Tensor, temperature: float) -> Reference:
    """What every exported file is compared with: calibrated probabilities of logits (N, C)."""
    pictures, classes = finished.parts.part(VALIDATION), finished.parts.classes
    probabilities = (logits / temperature).softmax(1).numpy()
    labels = class_numbers(pictures, classes).numpy()
    return Reference(finished.root, tuple(p.path for p in pictures), labels, classes, probabilities)
