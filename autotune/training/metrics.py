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
    Counts = NDArray[np.int64] | NDArray[np.float64]

N_RESAMPLES = 2000
Z = 1.959963984540054  # the normal distribution's 97.5 % quantile
SLOPE_STEP = 0.01  # of a recall, to find the slope of a score
WORST_LOG_LOSS = 1e6  # of a diverged network: JSON has no infinity, and NaN cannot be ordered


def accuracy(labels: ClassNumbers, predictions: ClassNumbers, n_classes: int) -> float:
    """Share of correct predictions."""
    return float((labels == predictions).mean())


def balanced_accuracy(labels: ClassNumbers, predictions: ClassNumbers, n_classes: int) -> float:
    """Mean recall over the classes that occur in labels."""
    return _mean_recall(*_counts(labels, predictions, n_classes))


def macro_f1(labels: ClassNumbers, predictions: ClassNumbers, n_classes: int) -> float:
    """Mean F1 over the classes that occur in labels."""
    return _mean_f1(*_counts(labels, predictions, n_classes))


def _mean_recall(of_class: Counts, predicted: Counts, right: Counts) -> float:
    present = of_class > 0
    return float((right[present] / of_class[present]).mean())


def _mean_f1(of_class: Counts, predicted: Counts, right: Counts) -> float:
    present = of_class > 0
    return float((2 * right[present] / (of_class + predicted)[present]).mean())


def _counts(
    labels: ClassNumbers, predictions: ClassNumbers, n_classes: int
) -> tuple[ClassNumbers, ClassNumbers, ClassNumbers]:
    """Return how often each class is the label, the prediction, and both; each (C,).

    scikit-learn's functions, which the tests compare with, take a hundred times as long: seconds for a bootstrap.
    """
    import numpy as np

    both = labels[labels == predictions]
    of_class, predicted, right = (np.bincount(one, minlength=n_classes) for one in (labels, predictions, both))
    return of_class, predicted, right


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % Wilson interval of a proportion (Wilson 1927)."""
    from scipy.stats import binomtest

    low, high = binomtest(correct, n).proportion_ci(method="wilson")
    return float(low), float(high)


def accuracy_interval(labels: ClassNumbers, predictions: ClassNumbers, n_classes: int) -> tuple[float, float]:
    return wilson_interval(int((labels == predictions).sum()), len(labels))


def class_interval(
    score_of: Callable[[Counts, Counts, Counts], float],
    labels: ClassNumbers,
    predictions: ClassNumbers,
    n_classes: int,
) -> tuple[float, float]:
    """95 % interval of a mean over classes: Wilson's, with the effective number of pictures (Korn and Graubard 1998).

    As many pictures give a share the variance of the score, which is that of each recall times the square of the
    score's slope. For both, each class has half a correct prediction and half an error more, so the interval has a
    width if all predictions are correct, unlike that of a bootstrap, and covers more often (benchmarks/intervals.txt).
    The errors of a class keep their shares of the other classes, or are spread evenly if there are none.
    score_of: of the counts of labels, of predictions and of both, each (C,).
    """
    import numpy as np

    of_class, predicted, right = _counts(labels, predictions, n_classes)
    value = score_of(of_class, predicted, right)
    variance = 0.0
    smooth_predicted, smooth_right = predicted.astype(float), right.astype(float)
    for label in np.flatnonzero(of_class):
        n, own = int(of_class[label]), np.arange(n_classes) == label
        errors = np.where(own, 0, np.bincount(predictions[labels == label], minlength=n_classes))
        one_more = own - (errors / errors.sum() if errors.any() else ~own / (n_classes - 1))  # of the predictions
        recall = (right[label] + 0.5) / (n + 1)
        added = recall * n - right[label]
        smooth_predicted, smooth_right = smooth_predicted + added * one_more, smooth_right + added * own
        step = n * SLOPE_STEP * (1 if 2 * right[label] < n else -1)
        change = score_of(of_class, predicted + step * one_more, right + step * own) - value
        variance += (change / step) ** 2 * n * recall * (1 - recall)
    share = score_of(of_class, smooth_predicted, smooth_right)
    effective = max(share * (1 - share) / variance, 1.0) if variance else len(labels)
    return _wilson(value, float(effective), value)


def _wilson(share: float, n: float, value: float) -> tuple[float, float]:
    """Return Wilson's interval of a share of n pictures, which need not be whole, extended to contain a value."""
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * (share * (1 - share) / n + Z**2 / (4 * n**2)) ** 0.5 / (1 + Z**2 / n)
    return max(min(middle - half, value), 0.0), min(max(middle + half, value), 1.0)


def visit_interval(metric: str, labels: ClassNumbers, predictions: ClassNumbers, n_classes: int,
                   visits: Sequence[str]) -> tuple[float, float]:  # fmt: skip
    """95 % interval of a score for pictures of other visits. visits: of each picture, (N,), at least two different.

    Of an accuracy: Wilson's, with the effective number of pictures (Korn and Graubard 1998), because pictures of one
    visit are alike and a few visits say little. Of other metrics: a bootstrap of whole visits, widened by Student's t
    for few visits, but never narrower than for pictures of the same visits. It covers more often than the bootstrap
    alone (benchmarks/visits.txt).
    """
    import numpy as np

    of_picture = np.unique(np.asarray(visits), return_inverse=True)[1]
    n_visits = int(of_picture.max()) + 1
    wider = _wider(n_visits)
    if metric == "accuracy":
        return _accuracy_of_visits(labels == predictions, of_picture, wider)
    rng = np.random.default_rng(0)
    members, function = _members(visits), find_metric(metric).score
    scores = []
    for _ in range(N_RESAMPLES):
        chosen = _drawn(members, rng)
        scores.append(function(labels[chosen], predictions[chosen], n_classes))
    value = function(labels, predictions, n_classes)
    low, high = np.quantile(scores, [0.025, 0.975])
    wider *= (n_visits / (n_visits - 1)) ** 0.5
    least_low, least_high = find_metric(metric).interval(labels, predictions, n_classes)
    return (
        min(max(value - wider * float(value - low), 0.0), least_low),
        max(min(value + wider * float(high - value), 1.0), least_high),
    )


def _members(visits: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the places of the pictures of each visit."""
    import numpy as np

    of_picture = np.unique(np.asarray(visits), return_inverse=True)[1]
    order = np.argsort(of_picture, kind="stable")
    return np.split(order, np.cumsum(np.bincount(of_picture))[:-1])


def _drawn(members: Sequence[NDArray[np.int64]], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the places of the pictures of as many visits, drawn with replacement."""
    import numpy as np

    return np.concatenate([members[visit] for visit in rng.integers(0, len(members), len(members))])


def _accuracy_of_visits(correct: NDArray[np.bool_], visits: NDArray[np.int64], wider: float) -> tuple[float, float]:
    """Return Wilson's interval with the effective number of pictures. wider: Student's t over the normal quantile."""
    import numpy as np

    n, n_visits = len(correct), int(visits.max()) + 1
    share = (correct.sum() + 0.5) / (n + 1)  # neither 0 nor 1, so that the variance of a picture is not 0
    residuals = np.bincount(visits, correct - correct.mean())
    variance = n_visits / (n_visits - 1) * float((residuals**2).sum()) / n**2
    effective = min(share * (1 - share) / variance, n) if variance else n
    effective = max(effective / wider**2, 1.0)
    return _wilson(float(share), effective, float(correct.mean()))


def paired_interval(metric: str, labels: ClassNumbers, one: ClassNumbers, other: ClassNumbers, n_classes: int,
                    visits: Sequence[str] | None = None) -> tuple[float, float]:  # fmt: skip
    """Seeded 95 % percentile bootstrap interval of a difference in score: predictions `one` minus `other`.

    visits: of each picture, if whole visits are to be resampled. It is then widened as in `visit_interval`.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    function = find_metric(metric).score
    members = _members(visits) if visits else None
    found = []
    for _ in range(N_RESAMPLES):
        chosen = _drawn(members, rng) if members else rng.integers(0, len(labels), len(labels))
        some = labels[chosen]
        found.append(function(some, one[chosen], n_classes) - function(some, other[chosen], n_classes))
    low, high = np.quantile(found, [0.025, 0.975])
    if not members or len(members) < 2:
        return float(low), float(high)
    value = function(labels, one, n_classes) - function(labels, other, n_classes)
    wider = _wider(len(members)) * (len(members) / (len(members) - 1)) ** 0.5
    return value - wider * float(value - low), value + wider * float(high - value)


def _wider(n_visits: int) -> float:
    """Return Student's t for a mean of so many visits over the normal quantile."""
    from scipy.stats import t

    return float(t.ppf(0.975, n_visits - 1) / Z)


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
        interval=partial(class_interval, _mean_recall),
        change_by_one=lambda counts: 1 / (len(counts) * min(n for n in counts if n)),
    ),
    "macro_f1": Metric(
        label="macro F1",
        hub_name="f1",
        score=macro_f1,
        interval=partial(class_interval, _mean_f1),
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


def score_interval(metric: str, labels: ClassNumbers, predictions: ClassNumbers, n_classes: int,
                   visits: Sequence[str] | None = None) -> tuple[float, float]:  # fmt: skip
    """95 % interval of `score`. visits: of each picture, (N,), for pictures of other visits. Raises ConfigError for an
    unknown metric.
    """
    if visits is not None and len(set(visits)) > 1:
        return visit_interval(metric, labels, predictions, n_classes, visits)
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
