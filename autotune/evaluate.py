"""The test: the best trial meets the sealed test pictures. Nothing else reads them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from autotune import images, pixels, training
from autotune.batches import CLEAN_BATCH
from autotune.errors import DataError, StudyError
from autotune.images import Picture, Progress
from autotune.network import Network
from autotune.record import Record
from autotune.scores import answers, interval, log_loss, score, wilson
from autotune.space import Params

MISTAKES = 50


def look(backbones: training.Backbones, record: Record, root: Path, pictures: Sequence[Picture],
         classes: Sequence[str], trial: dict[str, Any], progress: Progress) -> None:  # fmt: skip
    """Measure one trial on the test pictures and write the look into the record.

    Raises DataError where a test picture is gone or has changed, StudyError where the checkpoint is missing.
    """
    start = time.monotonic()
    net = restore(backbones, trial).eval().to(backbones.device)
    traits = backbones.lesson.backbones[net.params.backbone][0].traits
    found = []
    for first in range(0, len(pictures), CLEAN_BATCH):
        chunk = pictures[first : first + CLEAN_BATCH]
        _refuse_changed(root, chunk)
        batch = np.stack([pixels.square(root / p.path, net.params.pixels, traits.interpolation) for p in chunk])
        with torch.no_grad():
            found.append(net([torch.from_numpy(batch).to(backbones.device)]).float().cpu())
        progress(first + len(chunk), len(pictures))
    scores = measured(backbones.lesson.metric, torch.cat(found), pictures, classes)
    record.keep_look(trial["number"], time.monotonic() - start, scores)


def restore(backbones: training.Backbones, trial: dict[str, Any]) -> Network:
    """A finished trial's network with its trained weights. Raises StudyError where they are gone."""
    file = backbones.lesson.folder / str(trial["checkpoint"])
    if not trial["checkpoint"] or not file.is_file():
        raise StudyError(f"The checkpoint of trial {trial['number']}, {file}, is gone.", "Put it back, or search anew.")
    net = training.build(backbones, Params(**trial["params"]), steps=1, seed=0)
    found = net.load_state_dict(safetensors.torch.load_file(file), strict=False)
    if found.unexpected_keys or any(not name.startswith("entry.") for name in found.missing_keys):
        raise StudyError(f"{file} does not fit its backbone.", "Name the same --plugins as before, or search anew.")
    return net


def measured(metric: str, logits: torch.Tensor, pictures: Sequence[Picture], classes: Sequence[str]) -> dict[str, Any]:
    """All that is said of one look: scores with intervals, per class, the confusion matrix, the mistakes.

    logits: (N, C), in the order of pictures. confusion: rows are true classes, columns answers.
    """
    labels = np.array([classes.index(picture.label) for picture in pictures])
    said = answers(logits)
    n, right = len(labels), labels == said
    confusion = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(confusion, (labels, said), 1)
    probabilities = logits.softmax(1)
    wrong = sorted(np.flatnonzero(~right).tolist(), key=lambda i: -float(probabilities[i, said[i]]))
    return {
        "n": n,
        "value": score(metric, labels, said, len(classes)),
        "value_interval": interval(metric, labels, said, len(classes)),
        "accuracy": score("accuracy", labels, said, len(classes)),
        "interval": wilson(int(right.sum()), n),
        "balanced_accuracy": score("balanced_accuracy", labels, said, len(classes)),
        "macro_f1": score("macro_f1", labels, said, len(classes)),
        "log_loss": log_loss(logits, torch.from_numpy(labels)),
        "per_class": {name: _class(confusion, i) for i, name in enumerate(classes)},
        "confusion": confusion.tolist(),
        "mistakes": [
            {
                "path": pictures[i].path,
                "label": pictures[i].label,
                "answer": classes[said[i]],
                "probability": round(float(probabilities[i, said[i]]), 4),
            }
            for i in wrong[:MISTAKES]
        ],
    }


def _class(confusion: np.ndarray[tuple[int, ...], np.dtype[np.int_]], i: int) -> dict[str, Any]:
    n, right, named = int(confusion[i].sum()), int(confusion[i, i]), int(confusion[:, i].sum())
    return {"n": n, "right": right, "recall": right / n if n else 0.0, "precision": right / named if named else 0.0}


def _refuse_changed(root: Path, chunk: Sequence[Picture]) -> None:
    for picture in chunk:
        try:
            same = images.digest(images.decode(root / picture.path)) == picture.digest
        except (images.UnreadableError, OSError) as error:
            raise DataError(f"Test picture {root / picture.path} cannot be read: {error}.", "Put it back.") from error
        if not same:
            raise DataError(
                f"Test picture {root / picture.path} is not the one of the manifest any more.",
                "Put the old one back, or start a new study on the changed folder.",
            )
