import numpy as np
import pytest
import torch

from autotune.training import probe as probes
from autotune.training.metrics import log_loss
from autotune.training.probe import INVERSE_PENALTIES, LinearProbe, choose_probe, cross_validated_loss, fit_probe


def features(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return three noisy clusters (N, 7) and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    return (rng.normal(size=(n, 7)) + 3 * np.eye(7)[labels]).astype(np.float32), labels


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_saved_probe_is_the_same_in_any_memory_order(order: str) -> None:
    weight = np.asarray(np.arange(21, dtype=np.float32).reshape(3, 7), order=order)  # type: ignore[call-overload]
    probe = LinearProbe(weight, np.arange(3, dtype=np.float32), 0.01)
    again = LinearProbe.from_bytes(probe.to_bytes())
    assert np.array_equal(again.weight, weight)
    assert (again.inverse_penalty, again.bias.tolist()) == (0.01, [0, 1, 2])


def test_a_probe_of_an_earlier_version_has_no_penalty() -> None:
    probe = LinearProbe(np.ones((2, 3), np.float32), np.zeros(2, np.float32), None)
    assert LinearProbe.from_bytes(probe.to_bytes()).inverse_penalty is None


def test_a_fitted_probe_predicts_as_its_head_does() -> None:
    train, labels = features()
    probe = LinearProbe.from_bytes(fit_probe(3, train, labels, 0.1).to_bytes())
    with torch.no_grad():
        predicted = probe.head()(torch.from_numpy(train)).argmax(1).numpy()
    assert np.array_equal(predicted, probe.logits(train).argmax(1))
    assert (predicted == labels).mean() > 0.9


def test_the_chosen_penalty_has_the_lowest_cross_entropy() -> None:
    train, labels = features()
    probe, value = choose_probe("accuracy", 3, train, labels, train, labels)
    fitted = [fit_probe(3, train, labels, one) for one in INVERSE_PENALTIES]
    scores = [(one.logits(train).argmax(1) == labels).mean() for one in fitted]
    losses = [log_loss(torch.from_numpy(one.logits(train)), torch.from_numpy(labels)) for one in fitted]
    assert probe.inverse_penalty == INVERSE_PENALTIES[int(np.argmin(losses))]
    assert value == scores[int(np.argmin(losses))]


@pytest.mark.parametrize(("ranked", "n_folds"), [(1000, 4), (20, 2), (15, 1)])
def test_the_cross_validated_loss_is_that_of_unseen_pictures(
    monkeypatch: pytest.MonkeyPatch, ranked: int, n_folds: int
) -> None:
    monkeypatch.setattr(probes, "RANKED", ranked)
    x, labels = features()
    folds = np.random.default_rng(1).permutation(60) % 4
    probe = fit_probe(3, x[folds != 0], labels[folds != 0], 0.1)
    each: list[float] = []
    for fold in range(n_folds):
        own = fit_probe(3, x[folds != fold], labels[folds != fold], 0.1)
        logits = torch.from_numpy(own.logits(x[folds == fold])).double()
        each.extend(-logits.log_softmax(1)[torch.arange(15), torch.from_numpy(labels[folds == fold])].numpy())
    assert cross_validated_loss(3, probe, x, labels, folds) == pytest.approx(np.mean(each))
