"""Suspects: pictures whose label a linear probe, that was not trained on them, doubts most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.backbones.registry import discover
from autotune.data.picture import Picture
from autotune.data.split import TRAIN, VALIDATION, Split
from autotune.errors import DataError
from autotune.search.candidates import Candidate, Selection, select_backbones
from autotune.search.plan import build_context, pick_device, resolve_settings
from autotune.search.settings import Settings
from autotune.study.listener import StudyListener
from autotune.study.run import decode_pictures
from autotune.training.context import LoadedBackbones

FOLDS = 5
STRENGTH = 1e-2  # the inverse of the L2 penalty, on standardised features


@dataclass(frozen=True)
class LabelIssue:
    """answer: the class that the probe takes it for. probability: of that; doubt: less that of its own label."""

    path: str
    label: str
    answer: str
    probability: float
    fitted: float


def find_label_issues(parts: Split, root: Path, n: int, listener: StudyListener) -> list[LabelIssue]:
    """At most n training and validation pictures whose label is doubted, the most doubtful first.

    Each picture is judged by a probe fitted without it and without its copies (confident learning: Northcutt et al.
    2021). Test pictures are left out: sorting them by what a model thinks of them would flatter the test.
    Raises DataError where a class has too few pictures, PluginError where no pretrained backbone is at hand.
    """
    pictures = (*parts.part(TRAIN), *parts.part(VALIDATION))
    chosen = _pretrained(parts, listener)
    features = _features(chosen, parts, root, pictures, listener)
    probabilities = _out_of_fold(features, pictures)
    classes = sorted({picture.label for picture in pictures})
    found = [_suspect(picture, row, classes) for picture, row in zip(pictures, probabilities, strict=True)]
    doubted = [one for one in found if one.answer != one.label]
    return sorted(doubted, key=lambda one: (-one.fitted, one.path))[:n]


def _pretrained(parts: Split, listener: StudyListener) -> Selection:
    """The first pretrained backbone that is at hand, as a search would use it."""
    chosen = select_backbones(Settings(), discover(), None, pick_device("auto"), parts.side, listener.detail)
    first = next(one for one in chosen.candidates if not one.backbone.traits.from_scratch)
    return replace(chosen, candidates=(replace(first, profiles=first.profiles[:1]),))


def _features(chosen: Selection, parts: Split, root: Path, pictures: Sequence[Picture],
              listener: StudyListener) -> NDArray[np.float32]:  # fmt: skip
    """What the backbone says of each picture, (N, F), from the bank that a study uses too."""
    (one,) = chosen.candidates
    decode_pictures(parts, root, chosen, listener)
    settings = resolve_settings(Settings(), parts)
    name, size, stages = _look(one)
    context = build_context(settings, parts, chosen, 1, {(name, size): (stages,)})
    cache = LoadedBackbones(context).feature_cache(name, size)
    digests = [picture.digest for picture in pictures]
    cache.fill(digests, [0], listener.progress(f"Feature cache of {name}"))
    rows = cache.rows(stages, 0)
    return rows.take(rows.places(digests)).astype(np.float32)


def _look(one: Candidate) -> tuple[str, int, int]:
    profile = one.profiles[0]
    return one.backbone.name, profile.pixels, profile.stages


def _out_of_fold(features: NDArray[np.float32], pictures: Sequence[Picture]) -> NDArray[np.float64]:
    """The probability of each class, in the order of names, (N, C); each row from a probe that did not see it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.array([picture.label for picture in pictures])
    tied = np.array([picture.group or picture.digest for picture in pictures])
    fewest = min((len(set(tied[labels == label])), label) for label in set(labels.tolist()))
    if fewest[0] < 2:
        raise DataError(
            f"Class {fewest[1]!r} has too few pictures to doubt any of them: {fewest[0]} beside the test.",
            "Add some, or take the class out.",
        )
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=300))
    folds = StratifiedGroupKFold(min(FOLDS, fewest[0]), shuffle=True, random_state=0)
    found: NDArray[np.float64] = cross_val_predict(
        model, features, labels, groups=tied, cv=folds, method="predict_proba"
    )
    return found


def _suspect(picture: Picture, row: NDArray[Any], classes: Sequence[str]) -> LabelIssue:
    best, own = int(row.argmax()), float(row[classes.index(picture.label)])
    probability = float(row[best])
    return LabelIssue(picture.path, picture.label, classes[best], round(probability, 4), round(probability - own, 4))
