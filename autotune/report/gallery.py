"""All test pictures by class, to browse: the misclassified ones and the correct ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from autotune.data.picture import Picture
from autotune.report.thumbnails import Thumbnail, thumbnail
from autotune.study.storage.evaluations import Evaluation

MOST = 1000  # pictures of a gallery: about 4 MB of the page
LONGEST = 96  # pixels of a thumbnail's longer side


@dataclass(frozen=True)
class BrowsedPicture:
    """A test picture. predicted: its class, of which the network was this confident."""

    picture: Thumbnail
    predicted: str
    confidence: float


@dataclass(frozen=True)
class ClassGallery:
    """The test pictures of one class, the misclassified ones with the highest confidence first, the correct ones with
    the lowest. n_hidden: correct pictures that are not shown.
    """

    name: str
    wrong: list[BrowsedPicture]
    right: list[BrowsedPicture]
    n_hidden: int


def class_galleries(
    scores: Evaluation, pictures: Sequence[Picture], classes: Sequence[str], root: Path
) -> list[ClassGallery]:
    """Return the pictures of each class. pictures: of the test set, in the split's order. root: of the pictures.

    Empty for an evaluation of an earlier version, or if the manifest has changed since.
    """
    if not (scores.predicted and scores.right) or len(pictures) != scores.n:
        return []
    order = sorted(range(scores.n), key=lambda i: (scores.right[i], _doubt(scores, i)))
    shown = order[:MOST]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        drawn = pool.map(lambda i: thumbnail(root, pictures[i].path, LONGEST), shown)
        thumbs = dict(zip(shown, drawn, strict=True))
    found = []
    for name in classes:
        own = [i for i in order if pictures[i].label == name]
        browsed = {
            i: BrowsedPicture(thumbs[i], classes[scores.predicted[i]], scores.confidence[i]) for i in own if i in thumbs
        }
        wrong = [one for i, one in browsed.items() if not scores.right[i]]
        right = [one for i, one in browsed.items() if scores.right[i]]
        found.append(ClassGallery(name, wrong, right, len(own) - len(browsed)))
    return found


def _doubt(scores: Evaluation, i: int) -> float:
    """Return a sort key: confident mistakes come first, and unsure correct predictions."""
    return scores.confidence[i] if scores.right[i] else -scores.confidence[i]
