"""A new metric or optimizer needs only an entry in a table."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run_command
from optuna.trial import FixedTrial
from torch import nn

from autotune.backbones.spec import Traits
from autotune.cache.features import FrozenPrefix
from autotune.cli.options import metric_names
from autotune.data.augment import Invariances
from autotune.errors import ConfigError
from autotune.search.settings import read_settings
from autotune.search.space import BackboneOptions, suggest
from autotune.training.lightning.trainable import Schedule, TrainableNetwork, class_weights
from autotune.training.metrics import METRICS, Metric, find_metric, score, score_interval
from autotune.training.network import assemble_network
from autotune.training.optimizers import OPTIMIZERS, Optimizer, build_optimizer
from autotune.training.params import Params


def lowest_recall(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> float:
    return min(float((predicted[labels == label] == label).mean()) for label in np.unique(labels))


@pytest.fixture
def new_metric(monkeypatch: pytest.MonkeyPatch) -> str:
    metric = Metric("lowest recall", "recall", lowest_recall, lambda *_: (0.25, 0.75), lambda counts: 1 / min(counts))
    monkeypatch.setitem(METRICS, "lowest_recall", metric)
    return "lowest_recall"


def test_a_new_metric_is_accepted_completed_and_computed(new_metric: str) -> None:
    assert read_settings(None, {"metric": new_metric}).metric == new_metric
    assert metric_names("lo") == [new_metric]
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])
    assert score(new_metric, labels, predicted, 2) == 0.5
    assert score_interval(new_metric, labels, predicted, 2) == (0.25, 0.75)
    assert find_metric(new_metric).change_by_one([4, 2]) == 0.5


def test_the_label_of_a_new_metric_is_in_status_and_report(finished: Path, new_metric: str) -> None:
    """The study used another metric, because worker processes do not have the entry of the test."""
    with sqlite3.connect(finished / "record.db") as record:
        record.execute("update study set value = json_set(value, '$.metric', ?) where key = 'definition'", [new_metric])
    shown = run_command("status", finished.name)
    assert "Lowest recall: test" in shown.stdout
    assert run_command("report", finished.name).returncode == 0
    assert "Validation lowest recall by trial number" in (finished / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def new_optimizer(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(OPTIMIZERS, "radam", Optimizer("RAdam", learning_rate_factor=3.0, arguments={"eps": 1e-6}))
    return "radam"


def one_stage_trial(optimizer: str, tmp_path: Path) -> Params:
    (tmp_path / "study.toml").write_text(f'[space]\noptimizer = "{optimizer}"\n')
    space = read_settings(tmp_path / "study.toml", {}).space
    options = (BackboneOptions("linear", (8,), (1,), from_scratch=True),)
    drawn = {
        "lr_high": 5e-4, "lr_low": 1e-5, "cycle": "triangular", "augment": 0.0, "batch_size": 32, "weight_decay": 0.01,
        "dropout": 0.0, "label_smoothing": 0.0,
    }  # fmt: skip
    return suggest(FixedTrial(drawn), space, options)  # type: ignore[arg-type]  # has the methods of a Trial


def test_a_new_optimizer_is_accepted_sampled_with_its_factor_and_trains(tmp_path: Path, new_optimizer: str) -> None:
    params = one_stage_trial(new_optimizer, tmp_path)
    assert params.optimizer == new_optimizer
    assert (params.lr_low, params.lr_high) == pytest.approx((3e-5, 3e-3))
    chain = nn.Sequential(nn.Sequential(nn.Flatten(1), nn.Linear(192, 4)))
    prefix = FrozenPrefix(chain[:0], Traits(pixels=8), Invariances())
    built = assemble_network(chain, prefix, params, 2, 4, seed=0, from_scratch=True)
    net = TrainableNetwork(built, params, Schedule(1, 1, 2), class_weights([0, 1], 2, 0.0), seed=0)
    optimizer = net.configure_optimizers()["optimizer"]
    assert isinstance(optimizer, torch.optim.RAdam)
    assert (optimizer.defaults["eps"], optimizer.defaults["weight_decay"]) == (1e-6, 0.01)
    weight = net.get_parameter("head.1.weight")
    before = weight.detach().clone()
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    net.training_step((pixels, torch.tensor([0, 1])), 0).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert not torch.equal(before, weight)


def test_unknown_names_raise_and_suggest_the_nearest() -> None:
    labels = np.array([0, 1])
    with pytest.raises(ConfigError, match="No metric named 'acuracy'") as error:
        score("acuracy", labels, labels, 2)
    assert error.value.fix == "Did you mean 'accuracy'?"
    with pytest.raises(ConfigError, match="No optimizer named 'adanw'") as error:
        build_optimizer("adanw", [], 1e-3, 0.0)
    assert error.value.fix == "Did you mean 'adamw'?"
