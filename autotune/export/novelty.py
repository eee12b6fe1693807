"""The distance of a bundle: fitted on the pool, with a limit that 5 % of the known held-out pictures exceed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autotune.data.folds import assign_folds
from autotune.data.split import TRAIN, VALIDATION
from autotune.errors import DataError
from autotune.export.bundle import UNKNOWN
from autotune.export.predict import Classifier, predict_files
from autotune.export.result import ForeignPictures
from autotune.study.evaluate import class_numbers
from autotune.study.listener import StudyListener
from autotune.study.reopen import FinishedTrial
from autotune.study.storage.rows import TRIAL
from autotune.training.novelty import NoveltyScore, distances, fit_novelty
from autotune.training.restore import TrainedNetwork, picture_features

MOST_PICTURES = 500  # of the pool, or five of each class if that is more: each is shown to the networks of all folds
PER_CLASS = 5
KNOWN_REFUSED = 0.05
FEWEST_HELD_OUT = 20  # pictures: of fewer, 5 % are not one


@dataclass(frozen=True)
class FittedNovelty:
    """score: of the exported network; more than 1 is unknown. known: scores (N,) of held-out pictures, ascending."""

    score: NoveltyScore
    known: NDArray[np.float32]


def fit(finished: FinishedTrial, listener: StudyListener) -> FittedNovelty | None:
    """Fit the score of the final model. None if there are too few pictures.

    The limit is from pictures that the network that judges them was not trained on: in the finals, each fold's network
    judges the pictures that it did not see; without, the trial's own network judges the validation pictures.
    """
    parts = finished.parts
    pool = (*parts.part(TRAIN), *parts.part(VALIDATION))
    folds = np.array(assign_folds(parts))
    most = max(MOST_PICTURES, PER_CLASS * len(parts.classes))
    places = np.arange(0, len(pool), max(1, -(-len(pool) // most)))
    pictures, folds = [pool[place] for place in places], folds[places]
    judges = finished.fold_networks() or [(0, finished.own)]  # fold 0 is the validation set
    networks: list[TrainedNetwork] = [finished.trained, *(network for _, network in judges)]
    rows = picture_features(networks, finished.root, pictures, listener.progress("Distances"))
    labels = class_numbers(pictures, parts.classes)
    known = [_held_out(own, labels, folds == fold) for own, (fold, _) in zip(rows[1:], judges, strict=True)]
    is_in_final = folds != 0 if finished.how == TRIAL else np.ones(len(pictures), bool)
    score = fit_novelty(rows[0][is_in_final], labels[is_in_final])
    found = np.sort(np.concatenate(known))
    if score is None or len(found) < FEWEST_HELD_OUT:
        return None
    limit = float(np.quantile(found, 1 - KNOWN_REFUSED))
    score.scale.fill_(limit)
    return FittedNovelty(score, (found / limit).astype(np.float32))


def _held_out(rows: Tensor, labels: Tensor, is_held_out: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the distances of the pictures held out, from the others."""
    score = fit_novelty(rows[~is_held_out], labels[~is_held_out])
    return np.empty(0, np.float32) if score is None else distances(score, rows[is_held_out])


def count_foreign(folder: Path, pictures: Sequence[Path], model: Classifier, known: NDArray[np.float32],
                  confidence: Sequence[float]) -> ForeignPictures:  # fmt: skip
    """Predict pictures of none of the classes with a bundle. known, confidence: of held-out pictures of the classes.

    Raises DataError if no picture can be read.
    """
    found = [one for one in predict_files(model, pictures) if one.error is None]
    if not found:
        raise DataError(f"No picture in {folder} can be read.", "Pass a folder of pictures with --unknowns.")
    far = np.array([one.distance for one in found], np.float64)
    return ForeignPictures(
        folder=folder.name,
        n=len(found),
        by_distance=int((far > 1).sum()),
        unknown=sum(one.label == UNKNOWN for one in found),
        auroc=_auroc(known, far),
        auroc_probability=_auroc(-np.array(confidence), -np.array([one.probability for one in found], np.float64)),
    )


def _auroc(known: NDArray[np.floating], foreign: NDArray[np.floating]) -> float:
    """Return the probability that a foreign picture has a higher score than a known one; ties count half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.repeat([0, 1], [len(known), len(foreign)]), np.concatenate([known, foreign])))
