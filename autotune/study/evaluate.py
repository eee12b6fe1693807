"""Evaluate the final model on the test set. Nothing else uses these pictures."""

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
from autotune.data.visits import visits_of
from autotune.study.storage.evaluations import CalibrationError, ClassScore, Evaluation, Mistake
from autotune.study.storage.files import StudyFiles
from autotune.study.storage.record import Record
from autotune.training.calibration import expected_calibration_error, fit_temperature
from autotune.training.context import LoadedBackbones
from autotune.training.metrics import log_loss, predicted_classes, score, score_interval
from autotune.training.restore import TrainedNetwork, network_from_checkpoint, picture_logits

MISTAKES = 50


def evaluate_winner(backbones: LoadedBackbones, record: Record, folder: Path, root: Path, parts: Split,
                    progress: Progress) -> None:  # fmt: skip
    """Evaluate the final model, or else the best trial, on the test set and record the scores.

    folder: of the study; root: of the pictures. Raises DataError if a picture is missing or has changed, StudyError
    if the checkpoint is missing or damaged.
    """
    start = time.monotonic()
    trial, final = record.winner(), record.final()
    assert trial

    def restored(path: str) -> TrainedNetwork:
        content = StudyFiles(folder, record).content(path)
        return network_from_checkpoint(backbones, trial.params, content, folder / path)

    temperature = final.temperature if final else None
    if temperature is None:
        temperature = validation_temperature(restored(str(trial.checkpoint)), root, parts, progress)
    net = restored(final.checkpoint if final else str(trial.checkpoint))
    test = parts.part(TEST)
    scores = score_logits(
        backbones.context.metric, picture_logits(net, root, test, progress), test, parts.classes, temperature,
        by_visit=parts.visits.n > 0,
    )  # fmt: skip
    record.keep_evaluation(trial.number, time.monotonic() - start, scores)


def validation_temperature(network: TrainedNetwork, root: Path, parts: Split, progress: Progress) -> float:
    """Return the temperature of a network as trained in the search. root: of the pictures."""
    validation = parts.part(VALIDATION)
    logits = picture_logits(network, root, validation, progress)
    return fit_temperature(logits, class_numbers(validation, parts.classes))


def class_numbers(pictures: Sequence[Picture], classes: Sequence[str]) -> Tensor:
    """Return the labels as indices into classes, (N,)."""
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[picture.label] for picture in pictures])


def score_logits(metric: str, logits: Tensor, pictures: Sequence[Picture], classes: Sequence[str],
                 temperature: float = 1.0, by_visit: bool = False) -> Evaluation:  # fmt: skip
    """Compute the scores with intervals, per class, the confusion matrix, the calibration error and the mistakes.

    logits: (N, C), in the order of pictures. temperature: fitted on validation, applied to all probabilities. by_visit:
    the groups of the pictures are visits, and the intervals are for pictures of other visits.
    """
    labels = class_numbers(pictures, classes)
    truth, predicted, n_classes = labels.numpy(), predicted_classes(logits), len(classes)
    correct = truth == predicted
    confusion = np.zeros((n_classes, n_classes), dtype=int)
    np.add.at(confusion, (truth, predicted), 1)
    probabilities = (logits / temperature).softmax(1)
    confidence = probabilities.max(1).values.double().numpy()
    visits = visits_of(pictures) if by_visit else None

    def interval(metric: str) -> tuple[float, float]:
        return score_interval(metric, truth, predicted, n_classes, visits)

    misclassified = sorted(np.flatnonzero(~correct).tolist(), key=lambda i: -float(confidence[i]))
    return Evaluation(
        n=len(truth),
        value=score(metric, truth, predicted, n_classes),
        n_visits=len(set(visits or ())),
        value_interval=interval(metric),
        accuracy=score("accuracy", truth, predicted, n_classes),
        interval=interval("accuracy"),
        balanced_accuracy=score("balanced_accuracy", truth, predicted, n_classes),
        macro_f1=score("macro_f1", truth, predicted, n_classes),
        log_loss=log_loss(logits, labels),
        per_class={name: _class_score(confusion, i) for i, name in enumerate(classes)},
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        calibration=CalibrationError(
            temperature=temperature,
            error_before=expected_calibration_error(logits.softmax(1), labels),
            error_after=expected_calibration_error(probabilities, labels),
        ),
        right=tuple(bool(one) for one in correct),
        confidence=tuple(round(float(one), 6) for one in confidence),
        predicted=tuple(int(one) for one in predicted),
        mistakes=tuple(
            Mistake(pictures[i].path, pictures[i].label, classes[predicted[i]], round(float(confidence[i]), 4))
            for i in misclassified[:MISTAKES]
        ),
    )


def _class_score(confusion: np.ndarray[tuple[int, ...], np.dtype[np.int_]], i: int) -> ClassScore:
    n, correct, predicted = int(confusion[i].sum()), int(confusion[i, i]), int(confusion[:, i].sum())
    return ClassScore(n, correct, correct / n if n else 0.0, correct / predicted if predicted else 0.0)
