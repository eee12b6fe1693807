"""The metrics that a study can maximise, with their 95 % intervals, and log loss.

To add a metric, add an entry to METRICS. Imports neither numpy nor torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from autotune.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    ClassNumbers = NDArray[np.int64]

N_RESAMPLES = 2000
WORST_LOG_LOSS = 1e6  # of a diverged network: JSON has no infinity, and NaN cannot be ordered


def accuracy(labels: ClassNumbers, predictions: ClassNumbers, n_classes: int) -> float:
    """Share of correct predictions."""
    return float((labels == predictions).mean())


def balanced_accuracy(labels: ClassNumbers, predictions: ClassNumbers, n_classes: int) -> float:
    """Mean recall over the classes that occur in labels."""
    import numpy as np
    from sklearn.metrics import recall_score

    present = np.unique(labels)
    return float(recall_score(labels, predictions, labels=present, average="macro", zero_division=0.0))


def macro_f1(labels: ClassNumbers, predictions: ClassNumbers, n_classes: int) -> float:
    """Mean F1 over all classes."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, labels=range(n_classes), average="macro", zero_division=0.0))


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % Wilson interval of a proportion (Wilson 1927)."""
    from scipy.stats import binomtest

    low, high = binomtest(correct, n).proportion_ci(method="wilson")
    return float(low), float(high)


def accuracy_interval(labels: ClassNumbers, predictions: ClassNumbers, n_classes: int) -> tuple[float, float]:
    return wilson_interval(int((labels == predictions).sum()), len(labels))


def bootstrap_interval(
    score: Callable[[ClassNumbers, ClassNumbers, int], float],
    labels: ClassNumbers,
    predictions: ClassNumbers,
    n_classes: int,
) -> tuple[float, float]:
    """Seeded 95 % percentile bootstrap interval of a score.

    Pictures are resampled within each class, so every class is always present. If all predictions are correct, the
    interval has zero width and understates the uncertainty.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    scores = []
    for _ in range(N_RESAMPLES):
        chosen = np.concatenate([rng.choice(places, len(places)) for places in members])
        scores.append(score(labels[chosen], predictions[chosen], n_classes))
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(low), float(high)


def paired_interval(metric: str, labels: ClassNumbers, one: ClassNumbers, other: ClassNumbers,
                    n_classes: int) -> tuple[float, float]:  # fmt: skip
    """Seeded 95 % percentile bootstrap interval of a difference in score: predictions `one` minus `other`."""
    import numpy as np

    rng = np.random.default_rng(0)
    function = find_metric(metric).score
    found = []
    for _ in range(N_RESAMPLES):
        chosen = rng.integers(0, len(labels), len(labels))
        some = labels[chosen]
        found.append(function(some, one[chosen], n_classes) - function(some, other[chosen], n_classes))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def macro_f1_change(counts: Sequence[int]) -> float:
    """Return the most that one prediction can change macro F1, given the number of pictures per class.

    F1, 2 tp / (n + predicted), changes by at most 2 / (n + 1) for the true class, 1 / (2n + 1) for the predicted one.
    """
    rarest = min(n for n in counts if n)
    return (2 / (rarest + 1) + 1 / (2 * rarest + 1)) / len(counts)


@dataclass(frozen=True)
class Metric:
    """A metric and how to report it. label: its name in text. hub_name: its name on the Hugging Face Hub.

    score, interval: in [0, 1], of labels (N,), predictions (N,), both class numbers, and the number of classes.
    change_by_one: the most that one prediction can change the score, given the number of pictures per class.
    """

    label: str
    hub_name: str
    score: Callable[[ClassNumbers, ClassNumbers, int], float]
    interval: Callable[[ClassNumbers, ClassNumbers, int], tuple[float, float]]
    change_by_one: Callable[[Sequence[int]], float]


METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        label="accuracy",
        hub_name="accuracy",
        score=accuracy,
        interval=accuracy_interval,
        change_by_one=lambda counts: 1 / sum(counts),
    ),
    "balanced_accuracy": Metric(
        label="balanced accuracy",
        hub_name="balanced_accuracy",
        score=balanced_accuracy,
        interval=partial(bootstrap_interval, balanced_accuracy),
        change_by_one=lambda counts: 1 / (len(counts) * min(n for n in counts if n)),
    ),
    "macro_f1": Metric(
        label="macro F1",
        hub_name="f1",
        score=macro_f1,
        interval=partial(bootstrap_interval, macro_f1),
        change_by_one=macro_f1_change,
    ),
}


def find_metric(name: str) -> Metric:
    """Return the metric with this name. Raises ConfigError for an unknown name."""
    if name not in METRICS:
        raise ConfigError(f"No metric named {name!r}.", did_you_mean(name, METRICS))
    return METRICS[name]


def score(metric: str, labels: ClassNumbers, predictions: ClassNumbers, n_classes: int) -> float:
    """Score predictions (N,) for labels (N,), class numbers, in [0, 1]. Raises ConfigError for an unknown metric."""
    return find_metric(metric).score(labels, predictions, n_classes)


def score_interval(metric: str, labels: ClassNumbers, predictions: ClassNumbers, n_classes: int) -> tuple[float, float]:
    """95 % interval of `score`. Raises ConfigError for an unknown metric."""
    return find_metric(metric).interval(labels, predictions, n_classes)


def log_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy, in nats, of logits (N, C); WORST_LOG_LOSS if it is not a number."""
    from torch.nn import functional

    loss = float(functional.cross_entropy(logits.cpu().double(), labels.cpu()))
    return loss if loss < WORST_LOG_LOSS else WORST_LOG_LOSS


def predicted_classes(logits: Tensor) -> ClassNumbers:
    """Most probable class (N,) of logits (N, C)."""
    return logits.argmax(1).cpu().numpy()


def smooth(values: Sequence[float], weight: float = 0.8) -> list[float]:
    """Exponential moving average with bias correction (as in Adam, and as TensorBoard smooths)."""
    average, out = 0.0, []
    for number, value in enumerate(values, 1):
        average = weight * average + (1 - weight) * value
        out.append(average / (1 - weight**number))
    return out
