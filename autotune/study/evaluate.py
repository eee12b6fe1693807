"""The test: the winner is evaluated on the sealed test set. Nothing else reads those pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autotune.data.catalog import Progress
from autotune.data.picture import Picture
from autotune.data.split import TEST, VALIDATION, Split
from autotune.study.record import Record
from autotune.study.rows import CalibrationError, ClassScore, Evaluation, Mistake, TrialRow
from autotune.training.calibration import expected_calibration_error, fit_temperature
from autotune.training.context import LoadedBackbones
from autotune.training.metrics import log_loss, predicted_classes, score, score_interval, wilson_interval
from autotune.training.restore import picture_logits, restore_network

MISTAKES = 50


def evaluate_trial(backbones: LoadedBackbones, record: Record, folder: Path, root: Path, parts: Split,
                   trial: TrialRow, progress: Progress) -> None:  # fmt: skip
    """Measure one trial on the test set and keep the evaluation in the record.

    folder: the study's; root: the pictures'. Raises DataError where a picture is gone or has changed, StudyError where
    the checkpoint is missing.
    """
    start = time.monotonic()
    net = restore_network(backbones, trial.number, trial.params, folder / str(trial.checkpoint))
    known, held_out = parts.part(VALIDATION), parts.part(TEST)
    temperature = fit_temperature(picture_logits(net, root, known, progress), class_numbers(known, parts.classes))
    logits = picture_logits(net, root, held_out, progress)
    scores = score_logits(backbones.context.metric, logits, held_out, parts.classes, temperature)
    record.keep_evaluation(trial.number, time.monotonic() - start, scores)


def class_numbers(pictures: Sequence[Picture], classes: Sequence[str]) -> Tensor:
    """The labels (N,) as places in classes."""
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[picture.label] for picture in pictures])


def score_logits(metric: str, logits: Tensor, pictures: Sequence[Picture], classes: Sequence[str],
                 temperature: float = 1.0) -> Evaluation:  # fmt: skip
    """Scores with intervals, per class, the confusion matrix, calibration and mistakes.

    logits: (N, C), in the order of pictures. temperature: fitted on validation; probabilities are those after it.
    """
    labels = class_numbers(pictures, classes)
    truth, answers, n_classes = labels.numpy(), predicted_classes(logits), len(classes)
    right = truth == answers
    confusion = np.zeros((n_classes, n_classes), dtype=int)
    np.add.at(confusion, (truth, answers), 1)
    probabilities = (logits / temperature).softmax(1)
    confidence = probabilities.max(1).values.double().numpy()
    wrong = sorted(np.flatnonzero(~right).tolist(), key=lambda i: -float(confidence[i]))
    return Evaluation(
        n=len(truth),
        value=score(metric, truth, answers, n_classes),
        value_interval=score_interval(metric, truth, answers, n_classes),
        accuracy=score("accuracy", truth, answers, n_classes),
        interval=wilson_interval(int(right.sum()), len(truth)),
        balanced_accuracy=score("balanced_accuracy", truth, answers, n_classes),
        macro_f1=score("macro_f1", truth, answers, n_classes),
        log_loss=log_loss(logits, labels),
        per_class={name: _class_score(confusion, i) for i, name in enumerate(classes)},
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        calibration=CalibrationError(
            temperature=temperature,
            error_before=expected_calibration_error(logits.softmax(1), labels),
            error_after=expected_calibration_error(probabilities, labels),
        ),
        right=tuple(bool(one) for one in right),
        confidence=tuple(round(float(one), 6) for one in confidence),
        mistakes=tuple(
            Mistake(pictures[i].path, pictures[i].label, classes[answers[i]], round(float(confidence[i]), 4))
            for i in wrong[:MISTAKES]
        ),
    )


def _class_score(confusion: np.ndarray[tuple[int, ...], np.dtype[np.int_]], i: int) -> ClassScore:
    n, right, named = int(confusion[i].sum()), int(confusion[i, i]), int(confusion[:, i].sum())
    return ClassScore(n, right, right / n if n else 0.0, right / named if named else 0.0)
