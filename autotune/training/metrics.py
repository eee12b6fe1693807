"""The metrics that a study can maximise, their 95 % intervals, and log loss. Importing it loads no numpy, no torch."""

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
WORST_LOG_LOSS = 1e6  # of a network that has diverged: JSON has no infinity, and NaN cannot be ordered


def accuracy(labels: ClassNumbers, answers: ClassNumbers, n_classes: int) -> float:
    """The share of right answers."""
    return float((labels == answers).mean())


def balanced_accuracy(labels: ClassNumbers, answers: ClassNumbers, n_classes: int) -> float:
    """The mean recall of the classes that occur in labels."""
    import numpy as np
    from sklearn.metrics import recall_score

    present = np.unique(labels)
    return float(recall_score(labels, answers, labels=present, average="macro", zero_division=0.0))


def macro_f1(labels: ClassNumbers, answers: ClassNumbers, n_classes: int) -> float:
    """The mean F1 of all classes."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, answers, labels=range(n_classes), average="macro", zero_division=0.0))


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share (Wilson 1927)."""
    from scipy.stats import binomtest

    low, high = binomtest(right, n).proportion_ci(method="wilson")
    return float(low), float(high)


def accuracy_interval(labels: ClassNumbers, answers: ClassNumbers, n_classes: int) -> tuple[float, float]:
    return wilson_interval(int((labels == answers).sum()), len(labels))


def bootstrap_interval(
    score: Callable[[ClassNumbers, ClassNumbers, int], float],
    labels: ClassNumbers,
    answers: ClassNumbers,
    n_classes: int,
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a score, seeded.

    Pictures are resampled within each class, so that no class is ever absent. Where every answer is right, the interval
    has no width and understates the uncertainty.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    scores = []
    for _ in range(N_RESAMPLES):
        chosen = np.concatenate([rng.choice(places, len(places)) for places in members])
        scores.append(score(labels[chosen], answers[chosen], n_classes))
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(low), float(high)


def macro_f1_change(counts: Sequence[int]) -> float:
    """The true class's F1, 2 tp / (n + named), changes by at most 2 / (n + 1), the answered class's by 1 / (2n + 1)."""
    rarest = min(n for n in counts if n)
    return (2 / (rarest + 1) + 1 / (2 * rarest + 1)) / len(counts)


@dataclass(frozen=True)
class Metric:
    """A metric and what is needed to report it. label: its name in text. hub_name: its name on the Hugging Face Hub.

    score, interval: in [0, 1], of labels (N,), answers (N,), both class numbers, and the number of classes.
    change_by_one: the most that one picture's answer can change the score, given the number of pictures in each class.
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
    """Raises ConfigError where there is no metric of that name."""
    if name not in METRICS:
        raise ConfigError(f"There is no metric {name!r}.", did_you_mean(name, METRICS))
    return METRICS[name]


def score(metric: str, labels: ClassNumbers, answers: ClassNumbers, n_classes: int) -> float:
    """The score, in [0, 1], of answers (N,) to labels (N,), both class numbers. Raises ConfigError where unknown."""
    return find_metric(metric).score(labels, answers, n_classes)


def score_interval(metric: str, labels: ClassNumbers, answers: ClassNumbers, n_classes: int) -> tuple[float, float]:
    """The 95 % interval of that score. Raises ConfigError where the metric is unknown."""
    return find_metric(metric).interval(labels, answers, n_classes)


def log_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy, in nats, of logits (N, C); WORST_LOG_LOSS where that is not a number."""
    from torch.nn import functional

    loss = float(functional.cross_entropy(logits.cpu().double(), labels.cpu()))
    return loss if loss < WORST_LOG_LOSS else WORST_LOG_LOSS


def predicted_classes(logits: Tensor) -> ClassNumbers:
    """The likeliest class (N,) of logits (N, C)."""
    return logits.argmax(1).cpu().numpy()


def smooth(values: Sequence[float], weight: float = 0.8) -> list[float]:
    """An exponential moving average with the start's bias corrected (Adam's correction; TensorBoard's smoothing)."""
    average, out = 0.0, []
    for number, value in enumerate(values, 1):
        average = weight * average + (1 - weight) * value
        out.append(average / (1 - weight**number))
    return out
