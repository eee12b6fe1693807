"""Likely label errors: pictures whose label disagrees with a network that was not trained on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.backbones.registry import discover
from autotune.data.picture import Picture
from autotune.data.split import TRAIN, VALIDATION, Split
from autotune.errors import DataError, StudyError
from autotune.search.candidates import Selection, select_backbones
from autotune.search.plan import Chosen, build_context, make_plan, pick_device
from autotune.search.settings import Settings
from autotune.study.checks import recorded_split
from autotune.study.finals.held_out import held_out_of
from autotune.study.listener import StudyListener
from autotune.study.prepare import decode_pictures
from autotune.study.storage.record import open_record
from autotune.study.summary import find_study
from autotune.training.context import LoadedBackbones

FOLDS = 5
STRENGTH = 1e-2  # the inverse of the L2 penalty, on standardised features


@dataclass(frozen=True)
class LabelIssue:
    """A likely label error. answer: the predicted class. probability: of that class.

    doubt: that probability minus the probability of the picture's label.
    """

    path: str
    label: str
    answer: str
    probability: float
    doubt: float


@dataclass(frozen=True)
class LabelIssues:
    """Likely label errors, largest doubt first. judged: the pictures that were predicted."""

    issues: tuple[LabelIssue, ...] = ()
    judged: int = 0


def find_label_issues(split: Split, root: Path, n: int, listener: StudyListener) -> LabelIssues:
    """Return at most n likely label errors in the training and validation sets.

    Each picture is predicted by a probe fitted without it and its duplicates (confident learning: Northcutt et al.
    2021). The test set is skipped: correcting its labels with a model's predictions would make the test score
    optimistic. Raises DataError if a class has too few pictures, PluginError if no pretrained backbone has its weights
    installed.
    """
    pictures = (*split.part(TRAIN), *split.part(VALIDATION))
    features = _features(_pretrained(split, listener), split, root, pictures, listener)
    probabilities = _out_of_fold(features, pictures)
    return _worst(pictures, probabilities, sorted({picture.label for picture in pictures}), n)


def find_label_issues_in_finals(study: str, pictures: Iterable[Picture], n: int) -> LabelIssues:
    """Return at most n likely label errors among pictures that took part in the finals of a study.

    Each picture is predicted by the winner's network that was not trained on it. Pictures that were moved, relabelled
    or edited since the study are left out. Raises StudyError if the study has no finals, or if it is of other pictures.
    """
    folder = find_study(study)
    with open_record(folder) as record:
        split, final = recorded_split(record, folder), record.final()
        held = held_out_of(final, record, folder, split) if final else None
    if not final or not held:
        raise StudyError(f"Study {folder.name} has no finals.", "Omit --study: then a linear probe finds label errors.")
    present = {(one.path, one.label, one.digest) for one in pictures}
    known = [i for i, one in enumerate(held.pictures) if (one.path, one.label, one.digest) in present]
    if not known:
        raise StudyError(
            f"Study {folder.name} is of other pictures.", "Pass the data folder of the study, or omit --study."
        )
    probabilities = (held.logits[known] / (final.temperature or 1.0)).softmax(1).double().numpy()
    return _worst([held.pictures[i] for i in known], probabilities, split.classes, n)


def _worst(pictures: Sequence[Picture], probabilities: NDArray[np.float64], classes: Sequence[str],
           n: int) -> LabelIssues:  # fmt: skip
    """Return the pictures with another label than predicted, largest doubt first. probabilities: (N, C)."""
    found = [_issue(picture, row, classes) for picture, row in zip(pictures, probabilities, strict=True)]
    issues = [one for one in found if one.answer != one.label]
    return LabelIssues(tuple(sorted(issues, key=lambda one: (-one.doubt, one.path))[:n]), len(found))


def _pretrained(split: Split, listener: StudyListener) -> Selection:
    """Select the first pretrained backbone with installed weights, at the picture size that a search uses."""
    selection = select_backbones(Settings(), discover(), None, pick_device("auto"), split.side, listener.detail)
    first = next(one for one in selection.candidates if not one.backbone.traits.from_scratch)
    return replace(selection, candidates=(replace(first, profiles=first.profiles[:1]),))


def _features(selection: Selection, split: Split, root: Path, pictures: Sequence[Picture],
              listener: StudyListener) -> NDArray[np.float32]:  # fmt: skip
    """Return the backbone's features of each picture, (N, F), from the feature cache shared with studies."""
    (one,) = selection.candidates
    decode_pictures(split, root, selection, listener)
    name, size = one.backbone.name, one.profiles[0].pixels
    plan = make_plan(Settings(), split, selection, chosen=Chosen(epochs=1, cuts={(name, size): (one.n_stages,)}))
    cache = LoadedBackbones(build_context(plan)).feature_cache(name, size)
    digests = [picture.digest for picture in pictures]
    cache.fill({0: digests}, listener.progress(f"Feature cache of {name}"))
    rows = cache.rows(one.n_stages, 0)
    return rows.take(rows.places(digests)).astype(np.float32)


def _out_of_fold(features: NDArray[np.float32], pictures: Sequence[Picture]) -> NDArray[np.float64]:
    """Return class probabilities (N, C), classes sorted by name; each row is from a probe fitted without it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.array([picture.label for picture in pictures])
    tied = np.array([picture.group or picture.digest for picture in pictures])
    fewest = min((len(set(tied[labels == label])), label) for label in set(labels.tolist()))
    if fewest[0] < 2:
        raise DataError(
            f"Class {fewest[1]!r} has too few pictures to find label errors: {fewest[0]} outside the test set.",
            "Add pictures to the class, or remove it.",
        )
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=300))
    folds = StratifiedGroupKFold(min(FOLDS, fewest[0]), shuffle=True, random_state=0)
    found: NDArray[np.float64] = cross_val_predict(
        model, features, labels, groups=tied, cv=folds, method="predict_proba"
    )
    return found


def _issue(picture: Picture, row: NDArray[Any], classes: Sequence[str]) -> LabelIssue:
    best, own = int(row.argmax()), float(row[classes.index(picture.label)])
    probability = float(row[best])
    return LabelIssue(picture.path, picture.label, classes[best], round(probability, 4), round(probability - own, 4))
