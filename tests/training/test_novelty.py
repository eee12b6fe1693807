"""The distance of a picture's features from those of the classes."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf

from autotune.training import novelty
from autotune.training.novelty import fit_novelty

RANDOM = torch.Generator().manual_seed(0)
CENTRES = 4 * torch.randn(3, 32, generator=RANDOM)


def pictures(n: int, noise: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (n, 32) around three centres, and their classes."""
    labels = torch.arange(n) % 3
    stretched = torch.randn(n, 32, generator=RANDOM) * torch.linspace(0.1, 2, 32)
    return CENTRES[labels] + noise * stretched, labels


def test_with_all_directions_it_is_the_mahalanobis_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = pictures(300)
    score = fit_novelty(features, labels)
    assert score
    rows = torch.nn.functional.normalize(features.double(), dim=1).numpy()
    means = np.stack([rows[labels == one].mean(0) for one in range(3)])
    covariance, _ = ledoit_wolf(rows - means[labels], assume_centered=True)
    other, _ = pictures(20, noise=2.0)
    new = torch.nn.functional.normalize(other.double(), dim=1).numpy()
    apart = new[:, None] - means[None]
    expected = np.sqrt(np.einsum("ncf,fg,ncg->nc", apart, np.linalg.inv(covariance), apart).min(1))
    assert score(other).numpy() == pytest.approx(expected, rel=2e-2)  # one direction of 32 is not kept
    monkeypatch.setattr(novelty, "N_DIRECTIONS", 4)
    few = fit_novelty(features, labels)
    assert few
    assert few.vectors.shape == (32, 4)
    assert np.corrcoef(few(other).numpy(), expected)[0, 1] > 0.7


def test_foreign_pictures_are_farther_than_known_ones_and_the_scale_divides() -> None:
    features, labels = pictures(300)
    score = fit(features, labels)
    known = score(pictures(100)[0])
    foreign = score(4 * torch.randn(100, 32, generator=RANDOM))
    assert known.quantile(0.95) < foreign.quantile(0.05)
    assert score(100 * features) == pytest.approx(score(features), rel=1e-3)  # only the direction counts
    score.scale.fill_(2.0)
    assert score(features[:5]) == pytest.approx(fit(features, labels)(features[:5]) / 2, rel=1e-5)


def fit(features: torch.Tensor, labels: torch.Tensor) -> novelty.NoveltyScore:
    found = fit_novelty(features, labels)
    assert found
    return found


def test_too_few_or_equal_pictures_have_no_distance() -> None:
    features, labels = pictures(8)
    assert fit_novelty(features, labels) is None  # less than three of each class
    same = CENTRES[labels].repeat(3, 1)
    assert fit_novelty(same, labels.repeat(3)) is None
