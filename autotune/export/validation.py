"""Validation: the trial's network, put together again, on the validation pictures: scores, calibration, reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from autotune.data.split import VALIDATION
from autotune.errors import StudyError
from autotune.export.result import AnsweredPictures, FittedCalibration
from autotune.export.verify import Reference
from autotune.study.evaluate import class_numbers, score_logits
from autotune.study.listener import StudyListener
from autotune.study.reopen import FinishedTrial
from autotune.text import percent
from autotune.training import calibration
from autotune.training.restore import TrainedNetwork, picture_logits


def validation_logits(finished: FinishedTrial, network: TrainedNetwork, listener: StudyListener) -> Tensor:
    """Logits (N, C) of the validation pictures, from their files. Raises DataError where one is gone or has changed."""
    return picture_logits(network, finished.root, finished.parts.part(VALIDATION), listener.progress("Validation"))


def score_restored(finished: FinishedTrial, logits: Tensor) -> dict[str, Any]:
    """The scores of the restored network. Raises StudyError where they are not the trial's, within one picture."""
    metric, pictures = finished.settings.metric, finished.parts.part(VALIDATION)
    if not logits.isfinite().all():
        raise StudyError(f"Trial {finished.trial['number']} answers with no numbers.", "Export another one: --trial N")
    temperature = calibration.fit_temperature(logits, class_numbers(pictures, finished.parts.classes))
    scores = score_logits(metric, logits, pictures, finished.parts.classes, temperature)
    allowed = _one_picture(metric, [row["n"] for row in scores["per_class"].values()])
    if abs(scores["value"] - finished.trial["value"]) > allowed + 1e-9:
        raise StudyError(
            f"Trial {finished.trial['number']} put together again scores {percent(scores['value'])} on validation; "
            f"the study measured {percent(finished.trial['value'])}.",
            "Name the same --weights and --plugins as before; if they are the same, this is a bug: please report it.",
        )
    return scores


def _one_picture(metric: str, counts: Sequence[int]) -> float:
    """The most that one picture's answer can change a metric, where classes have so many pictures."""
    if metric == "accuracy":
        return 1 / sum(counts)
    rarest = min(n for n in counts if n)
    if metric == "balanced_accuracy":
        return 1 / (len(counts) * rarest)
    # F1 = 2 tp / (n + named): the true class's falls by at most 2 / (n + 1), that of the wrong answer by 1 / (2n + 1).
    return (2 / (rarest + 1) + 1 / (2 * rarest + 1)) / len(counts)


def calibrate(
    finished: FinishedTrial, scores: dict[str, Any], threshold: float | None, precision: float | None
) -> FittedCalibration:
    """Temperature and threshold. precision: find the threshold that reaches it on validation.

    Raises ConfigError where none does.
    """
    temperature = float(scores["calibration"]["temperature"])
    confidence, right = np.array(scores["confidence"]), np.array(scores["right"])
    at = threshold or 0.0
    if precision is not None:
        at = calibration.find_threshold(confidence, right, precision)
    answered = {}
    if at:
        answered["validation"] = AnsweredPictures(**calibration.count_answered(confidence, right, at))
        test = finished.record.look(finished.trial["number"])
        if test and "confidence" in test:
            confidence, right = np.array(test["confidence"]), np.array(test["right"])
            answered["test"] = AnsweredPictures(**calibration.count_answered(confidence, right, at))
    return FittedCalibration(temperature, at, answered)


def build_reference(finished: FinishedTrial, logits: Tensor, temperature: float) -> Reference:
    """What every exported file is compared with: calibrated probabilities of logits (N, C)."""
    pictures, classes = finished.parts.part(VALIDATION), finished.parts.classes
    probabilities = (logits / temperature).softmax(1).numpy()
    labels = class_numbers(pictures, classes).numpy()
    return Reference(finished.root, tuple(p.path for p in pictures), labels, classes, probabilities)
