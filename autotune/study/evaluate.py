"""The test: the best trial meets the sealed test pictures. Nothing else reads them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotune.data.catalog import Progress
from autotune.data.picture import Picture
from autotune.data.split import TEST, VALIDATION, Split
from autotune.study.record import Record
from autotune.training.calibration import expected_calibration_error, fit_temperature
from autotune.training.context import LoadedBackbones
from autotune.training.metrics import log_loss, predicted_classes, score, score_interval, wilson_interval
from autotune.training.params import Params
from autotune.training.restore import picture_logits, restore_network

MISTAKES = 50


def evaluate_trial(backbones: LoadedBackbones, record: Record, folder: Path, root: Path, parts: Split,
                   trial: dict[str, Any], progress: Progress) -> None:  # fmt: skip
    """Measure one trial on the test pictures and write the look into the record.

    folder: the study's; root: the pictures'. Raises DataError where a picture is gone or has changed, StudyError where
    the checkpoint is missing.
    """
    start = time.monotonic()
    number, params = trial["number"], Params(**trial["params"])
    net = restore_network(backbones, number, params, folder / str(trial["checkpoint"]))
    known, held_out = parts.part(VALIDATION), parts.part(TEST)
    temperature = fit_temperature(picture_logits(net, root, known, progress), class_numbers(known, parts.classes))
    scores = score_logits(
        backbones.context.metric, picture_logits(net, root, held_out, progress), held_out, parts.classes, temperature
    )
    record.keep_look(trial["number"], time.monotonic() - start, scores)


def class_numbers(pictures: Sequence[Picture], classes: Sequence[str]) -> Tensor:
    """The labels (N,) as places in classes."""
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[picture.label] for picture in pictures])


def score_logits(metric: str, outputs: Tensor, pictures: Sequence[Picture], classes: Sequence[str],
             temperature: float = 1.0) -> dict[str, Any]:  # fmt: skip
    """All that is said of one look: scores with intervals, per class, the confusion matrix, calibration, mistakes.

    outputs: logits (N, C), in the order of pictures. heat: their temperature, fitted on validation; probabilities
    are told after it. confusion: rows are true classes, columns answers. confidence: a picture's highest probability.
    """
    reference = class_numbers(pictures, classes)
    labels = reference.numpy()
    said = predicted_classes(outputs)
    n, right = len(labels), labels == said
    confusion = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(confusion, (labels, said), 1)
    probabilities = (outputs / temperature).softmax(1)
    confidence = probabilities.max(1).values.double().numpy()
    wrong = sorted(np.flatnonzero(~right).tolist(), key=lambda i: -float(confidence[i]))
    return {
        "n": n,
        "value": score(metric, labels, said, len(classes)),
        "value_interval": score_interval(metric, labels, said, len(classes)),
        "accuracy": score("accuracy", labels, said, len(classes)),
        "interval": wilson_interval(int(right.sum()), n),
        "balanced_accuracy": score("balanced_accuracy", labels, said, len(classes)),
        "macro_f1": score("macro_f1", labels, said, len(classes)),
        "log_loss": log_loss(outputs, reference),
        "per_class": {name: _class(confusion, i) for i, name in enumerate(classes)},
        "confusion": confusion.tolist(),
        "calibration": {
            "temperature": temperature,
            "error_before": expected_calibration_error(outputs.softmax(1), reference),
            "error_after": expected_calibration_error(probabilities, reference),
        },
        "right": [bool(one) for one in right],
        "confidence": [round(float(one), 6) for one in confidence],
        "mistakes": [
            {
                "path": pictures[i].path,
                "label": pictures[i].label,
                "answer": classes[said[i]],
                "probability": round(float(confidence[i]), 4),
            }
            for i in wrong[:MISTAKES]
        ],
    }


def _class(confusion: np.ndarray[tuple[int, ...], np.dtype[np.int_]], i: int) -> dict[str, Any]:
    n, right, named = int(confusion[i].sum()), int(confusion[i, i]), int(confusion[:, i].sum())
    return {"n": n, "right": right, "recall": right / n if n else 0.0, "precision": right / named if named else 0.0}
