import pytest
import torch
from torch import nn
from torch.nn import functional

from autotune.backbones.registry import discover
from autotune.backbones.weights import find_weights, load_stages, stages_digest
from autotune.cache.features import FrozenPrefix
from autotune.data.augment import Invariances
from autotune.training.lightning.trainable import Schedule, TrainableNetwork, class_weights
from autotune.training.network import assemble_network
from autotune.training.optimizers import OPTIMIZERS
from autotune.training.params import Params

ENTRY = discover().find("efficientnet_lite0")
STAGES = 9


def params(**changes: object) -> Params:
    values = {
        "backbone": ENTRY.name, "depth": 2, "pixels": 64, "lr_low": 1e-4, "lr_high": 1e-2, "cycle": "triangular",
        "augment": 0.0, "class_weight": 0.0, "optimizer": "adamw", "batch_size": 8, "weight_decay": 0.0, "dropout": 0.0,
        "label_smoothing": 0.0, **changes,
    }  # fmt: skip
    return Params(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def chain() -> nn.Sequential:
    return load_stages(ENTRY, find_weights(ENTRY), pretrained=False).eval()


SCHEDULE = Schedule(2, 1, 10)


def build(chain: nn.Sequential, trial: Params, schedule: Schedule = SCHEDULE, seed: int = 0) -> TrainableNetwork:
    prefix = FrozenPrefix(chain[: len(chain) - trial.depth], ENTRY.traits, Invariances())
    weights = class_weights([0, 0, 0, 1, 1, 2], 3, trial.class_weight)
    net = assemble_network(chain, prefix, trial, 3, 1280, seed, from_scratch=False)
    return TrainableNetwork(net, trial, schedule, weights, seed)


@pytest.mark.parametrize("depth", [0, 1, 5, 9])
def test_a_depth_trains_only_its_stages_after_another_depth(chain: nn.Sequential, depth: int) -> None:
    build(chain, params(depth=0))  # freezes the shared chain
    net = build(chain, params(depth=depth)).train()
    x = [torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net.training_step((*x, torch.tensor([0, 1, 2, 0])), 0).backward()  # type: ignore[no-untyped-call, operator]
    optimizer.step()
    after = net.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == ({"tail", "head"} if depth else {"head"})
    tail = [name for name in before if name.startswith("tail.") and not torch.equal(before[name], after[name])]
    assert {name.split(".")[1] for name in tail} == {str(STAGES - 1 - i) for i in range(depth)}
    statistics = [name for name in before if "running_" in name]
    assert all(torch.equal(before[name], after[name]) for name in statistics)


def test_training_does_not_change_the_chain(chain: nn.Sequential) -> None:
    before = stages_digest(chain)
    net = build(chain, params(depth=9))
    with torch.no_grad():
        for parameter in net.trained():
            parameter.add_(1)
    assert stages_digest(chain) == before


def test_class_weights_have_mean_1_over_the_training_pictures() -> None:
    labels = [0] * 49 + [1]
    for exponent in (0.0, 0.5, 1.0):
        found = class_weights(labels, 2, exponent)
        assert float(found[labels].mean()) == pytest.approx(1.0)
        assert float(found[1] / found[0]) == pytest.approx(49**exponent, rel=1e-5)


def test_the_loss_is_weighted_and_divided_by_the_batch_size(chain: nn.Sequential) -> None:
    net = build(chain, params(class_weight=1.0, label_smoothing=0.1))
    x, labels = [torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)], torch.tensor([2, 2, 0, 1])
    loss = float(net.training_step((*x, labels), 0).detach())
    each = functional.cross_entropy(net(x), labels, reduction="none", label_smoothing=0.1)
    assert loss == pytest.approx(float((each * net.class_weights[labels]).sum().detach() / 4), rel=1e-5)


def learning_rates(chain: nn.Sequential, trial: Params, schedule: Schedule) -> list[float]:
    found = build(chain, trial, schedule).configure_optimizers()
    optimizer, scheduler = found["optimizer"], found["lr_scheduler"]["scheduler"]
    out = []
    for _ in range(schedule.epochs * schedule.steps):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*out, optimizer.param_groups[0]["lr"]]


def test_triangular_cycles_run_between_lr_low_and_lr_high(chain: nn.Sequential) -> None:
    found = learning_rates(chain, params(), Schedule(epochs=4, cycle_epochs=2, steps=5))
    assert found[0] == found[10] == pytest.approx(1e-4)
    assert found[20] == pytest.approx(1e-4)
    assert max(found) == found[5] == found[15] == pytest.approx(1e-2)


def test_triangular2_halves_the_amplitude_each_cycle(chain: nn.Sequential) -> None:
    found = learning_rates(chain, params(cycle="triangular2"), Schedule(epochs=4, cycle_epochs=2, steps=5))
    assert found[5] - 1e-4 == pytest.approx(2 * (found[15] - 1e-4))


def test_one_cycle_rises_once_and_ends_at_lr_low(chain: nn.Sequential) -> None:
    found = learning_rates(chain, params(cycle="one-cycle"), Schedule(epochs=4, cycle_epochs=1, steps=5))
    assert found[0] == pytest.approx(1e-4)
    assert max(found) == pytest.approx(1e-2, rel=0.05)
    assert found[-1] == pytest.approx(1e-4, rel=0.01)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize("cycle", ["triangular", "triangular2", "one-cycle"])
def test_every_optimizer_works_with_every_cycle(chain: nn.Sequential, name: str, cycle: str) -> None:
    assert len(learning_rates(chain, params(depth=0, optimizer=name, cycle=cycle), Schedule(1, 1, 1))) == 2


def test_the_seed_determines_the_network(chain: nn.Sequential) -> None:
    def head(seed: int) -> torch.Tensor:
        return build(chain, params(), seed=seed).get_parameter("head.1.weight")

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))


def test_mixup_mixes_pairs_and_their_labels_reproducibly(chain: nn.Sequential) -> None:
    batch = [torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2])]

    def losses(alpha: float, step: int) -> float:
        net = build(chain, params(depth=0, mixup=alpha))
        net.seed = step
        return float(net.training_step(batch, 0).detach())

    assert losses(0.0, 1) == losses(0.0, 2)
    assert losses(0.4, 1) == losses(0.4, 1)
    assert len({losses(0.4, step) for step in range(4)}) == 4
    # With a single class, mixing changes the inputs but not the target.
    net = build(chain, params(depth=0, mixup=1.0))
    net.get_parameter("head.1.weight").data.zero_()
    same = float(net.training_step((batch[0], torch.zeros(6, dtype=torch.long)), 0).detach())
    assert same == pytest.approx(float(-net.get_parameter("head.1.bias").log_softmax(0)[0].detach()), rel=1e-5)
