import numpy as np
import pytest
import torch

from autotune.training.probe import LinearProbe, choose_probe, fit_probe


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
    assert np.array_equal(predicted, probe.predictions(train))
    assert (predicted == labels).mean() > 0.9


def test_the_chosen_penalty_is_the_strongest_of_the_best() -> None:
    train, labels = features()
    probe, value = choose_probe("accuracy", 3, train, labels, train, labels)
    assert probe.inverse_penalty in (1e-4, 1e-3, 1e-2, 1e-1)
    stronger = fit_probe(3, train, labels, (probe.inverse_penalty or 0) / 10)
    assert (stronger.predictions(train) == labels).mean() < value or probe.inverse_penalty == 1e-4
