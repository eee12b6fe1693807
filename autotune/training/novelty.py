"""How far a picture is from all that a network learned: the Mahalanobis distance of its features (Mahalanobis++).

The features are l2-normalised, and the covariance is shrunk and shared by all classes (Mueller and Hein 2025, arXiv
2505.18032; Ledoit and Wolf 2004). Only its largest directions are kept exactly (benchmarks/unknowns.txt).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

N_DIRECTIONS = 64
BATCH = 32
LEAST_PER_CLASS = 3  # pictures of a class, on average: fewer say too little about its covariance


class NoveltyScore(nn.Module):
    """Features (N, F) to distances (N,) from the nearest class mean, as multiples of the limit `scale`.

    means: (C, F). vectors: (F, K), the directions kept exactly; weights: (K,). rest: the weight of all other ones.
    """

    def __init__(self, means: Tensor, vectors: Tensor, weights: Tensor, rest: Tensor, scale: Tensor) -> None:
        super().__init__()
        for name, value in (("means", means), ("vectors", vectors), ("weights", weights), ("rest", rest)):
            self.register_buffer(name, value)
        self.register_buffer("scale", scale)
        self.means: Tensor
        self.vectors: Tensor
        self.weights: Tensor
        self.rest: Tensor
        self.scale: Tensor

    def forward(self, features: Tensor) -> Tensor:
        rows = features / features.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
        far = 1 - 2 * rows @ self.means.T + self.means.square().sum(1)  # squared distances (N, C) in all directions
        along = (rows @ self.vectors)[:, None] - (self.means @ self.vectors)[None]
        squared = far * self.rest + (along.square() * self.weights).sum(2)
        return squared.amin(1).clamp_min(0.0).sqrt() / self.scale


@torch.no_grad()
def distances(score: NoveltyScore, features: Tensor) -> NDArray[np.float32]:
    """Return the distances (N,) of many pictures' features, in batches: one needs N x C x K numbers."""
    found: NDArray[np.float32] = torch.cat([score(rows) for rows in torch.split(features, BATCH)]).numpy()
    return found


def fit_novelty(features: Tensor, labels: Tensor) -> NoveltyScore | None:
    """Fit the score to the features (N, F) of labelled pictures, with scale 1; None if there are too few pictures."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    rows: NDArray[np.float64] = nn.functional.normalize(features.double(), dim=1).numpy()
    kinds, numbers = np.unique(labels.numpy(), return_inverse=True)
    if len(rows) < LEAST_PER_CLASS * len(kinds):
        return None
    means = np.stack([rows[numbers == place].mean(0) for place in range(len(kinds))])
    apart = rows - means[numbers]
    mean_variance = (apart**2).mean()
    if not mean_variance > 1e-15:  # all pictures of each class are the same, or not finite
        return None
    # Singular values, because the covariance of 25,000 features would not fit into memory.
    _, singular, vectors = np.linalg.svd(apart / np.sqrt(len(apart)), full_matrices=False)
    shrinkage = ledoit_wolf_shrinkage(apart, assume_centered=True)
    n_kept = min(N_DIRECTIONS, len(singular), rows.shape[1] - 1)
    kept = (1 - shrinkage) * singular[:n_kept] ** 2 + shrinkage * mean_variance
    others = (rows.shape[1] * mean_variance - kept.sum()) / (rows.shape[1] - n_kept)
    rest = 1 / max(others, 1e-12)
    found = (means, vectors[:n_kept].T, 1 / kept - rest, np.array(rest), np.array(1.0))
    return NoveltyScore(*(torch.from_numpy(np.ascontiguousarray(one)).float() for one in found))
