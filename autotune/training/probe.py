"""Linear probe: a head on frozen features. It ranks backbones and initialises the heads of deeper trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import nn

from autotune.training.batches import LabelledPictures
from autotune.training.context import LoadedBackbones
from autotune.training.metrics import log_loss, score
from autotune.training.params import Params

RANKED = 500  # pictures whose predictions suffice to rank backbones
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C, on standardised features


@dataclass(frozen=True)
class LinearProbe:
    """A fitted head. weight: (C, F), bias: (C,), for raw features. inverse_penalty: scikit-learn's C, if known."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    inverse_penalty: float | None

    @classmethod
    def from_bytes(cls, content: bytes) -> LinearProbe:
        """Read the content of a safetensors file; earlier versions did not write the penalty."""
        state = safetensors.numpy.load(content)
        penalty = float(state["inverse_penalty"][0]) if "inverse_penalty" in state else None
        return cls(state["weight"], state["bias"], penalty)

    def to_bytes(self) -> bytes:
        penalty = {} if self.inverse_penalty is None else {"inverse_penalty": np.array([self.inverse_penalty])}
        arrays = {"weight": self.weight, "bias": self.bias, **penalty}
        # safetensors writes the memory as it lies, and scikit-learn's may be in column order.
        return safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in arrays.items()})

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (N, C) of features (N, F)."""
        found: NDArray[np.float32] = features @ self.weight.T + self.bias
        return found

    def head(self) -> nn.Linear:
        """Return a trainable layer with these weights."""
        layer = nn.Linear(self.weight.shape[1], self.weight.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(self.weight))
            layer.bias.copy_(torch.from_numpy(self.bias))
        return layer


def choose_probe(
    metric: str,
    n_classes: int,
    train: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    validation: NDArray[np.float32],
    validation_labels: NDArray[np.int64],
) -> tuple[LinearProbe, float]:
    """Fit a probe with each penalty, and return that with the lowest cross-entropy on validation, with its score.

    Few pictures often give several penalties the same score, and heads of very different quality to start from.
    """

    def loss(probe: LinearProbe) -> float:
        return log_loss(torch.from_numpy(probe.logits(validation)), torch.from_numpy(validation_labels))

    best = min((fit_probe(n_classes, train, train_labels, one) for one in INVERSE_PENALTIES), key=loss)
    return best, score(metric, validation_labels, best.logits(validation).argmax(1), n_classes)


def cross_validated_loss(
    n_classes: int,
    probe: LinearProbe,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    folds: NDArray[np.int64],
) -> float:
    """Return the cross-entropy of probes with a penalty, each on a fold (N,) that it was not fitted on.

    probe: already fitted without fold 0. Further folds are predicted until there are RANKED predictions: a validation
    set of 40 pictures ranks backbones little better than chance.
    """
    assert probe.inverse_penalty is not None
    total, n = 0.0, 0
    for fold in range(folds.max() + 1):
        held_out = folds == fold
        if fold:
            probe = fit_probe(n_classes, features[~held_out], labels[~held_out], probe.inverse_penalty)
        logits = torch.from_numpy(probe.logits(features[held_out]))
        total += held_out.sum() * log_loss(logits, torch.from_numpy(labels[held_out]))
        n += held_out.sum()
        if n >= RANKED:
            break
    return float(total / n)


def cross_validated_score(
    metric: str,
    n_classes: int,
    probe: LinearProbe,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    folds: NDArray[np.int64],
) -> float:
    """Return the metric of probes with the penalty of `probe`, each on a fold (N,) that it was not fitted on."""
    assert probe.inverse_penalty is not None
    predicted = np.empty_like(labels)
    for fold in np.unique(folds):
        held_out = folds == fold
        fitted = fit_probe(n_classes, features[~held_out], labels[~held_out], probe.inverse_penalty)
        predicted[held_out] = fitted.logits(features[held_out]).argmax(1)
    return score(metric, labels, predicted, n_classes)


def fit_probe(
    n_classes: int, train: NDArray[np.float32], labels: NDArray[np.int64], inverse_penalty: float
) -> LinearProbe:
    """Fit logistic regression on features (N, F).

    Fine-tuning from such a head distorts pretrained features less than from a random one (LP-FT: Kumar et al. 2022).
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = train.mean(0), train.std(0) + 1e-6
    model = LogisticRegression(C=inverse_penalty, max_iter=300).fit((train - mean) / scale, labels)
    weight, bias = model.coef_, model.intercept_
    if n_classes == 2:  # one row z for both classes: logits -z / 2 and z / 2
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scale
    bias = bias - weight @ mean
    return LinearProbe(weight.astype(np.float32), bias.astype(np.float32), inverse_penalty)


def last_features(
    backbones: LoadedBackbones, name: str, pixels: int, pictures: LabelledPictures
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the cached features (N, F) of the clean view after the last stage, and the labels (N,)."""
    rows = backbones.feature_cache(name, pixels).rows(len(backbones.chain(name)), 0)
    return rows.take(rows.places(pictures.digests)).astype(np.float32), np.array(pictures.labels)


def probe_file_name(backbone: str, pixels: int) -> str:
    """Return the file name of a probe's head."""
    return f"probe-{backbone.replace(':', '-')}-{pixels}.safetensors"


def probe_of(params: Params, files: Mapping[str, bytes]) -> LinearProbe:
    """Return the probe of a trial's backbone and size. files: content by file name."""
    return LinearProbe.from_bytes(files[probe_file_name(params.backbone, params.pixels)])
