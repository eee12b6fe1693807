"""Look-alikes: classes of which most pictures seem to show one scene, by the features of a pretrained network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

LEAST = 10  # pictures of a scene
SHARE = 0.5  # of the pictures of a class
NEARNESS = 0.45  # mean distance within a scene over the median between classes (benchmarks/visits.txt)
COMPARED = 2000  # pictures of a class: the time grows with the square


def find_look_alikes(features: NDArray[np.float32], labels: NDArray[np.int64]) -> Mapping[int, list[int]]:
    """Return, by class number, the rows of pictures that look like one scene, for classes of which most do.

    features: (N, F). Pictures are clustered by average linkage of the cosine distance. That they look alike does not
    prove that they are of one visit: it is a warning, and changes no split.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    rows = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6)
    rng = np.random.default_rng(0)
    limit = NEARNESS * _median_between(rows, labels, rng)
    found = {}
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        if len(own) > COMPARED:
            own = np.sort(rng.choice(own, COMPARED, replace=False))
        if len(own) < LEAST:
            continue
        scenes = fcluster(linkage(rows[own], "average", metric="cosine"), limit, "distance")
        largest = own[scenes == np.bincount(scenes).argmax()]
        if len(largest) >= max(LEAST, SHARE * len(own)):
            found[int(label)] = largest.tolist()
    return found


def _median_between(rows: NDArray[np.float32], labels: NDArray[np.int64], rng: np.random.Generator) -> float:
    """Return the median cosine distance between pictures of different classes, of a sample."""
    some = rng.choice(len(rows), min(COMPARED, len(rows)), replace=False)
    distances = 1 - rows[some] @ rows[some].T
    return float(np.median(distances[labels[some][:, None] != labels[some][None]]))
