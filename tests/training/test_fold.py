"""Networks of the finals: what they are trained on, and their average."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import write_digits
from small_trials import KeptEpochs, trial_context

from autotune.study.finals.race import fold_epochs
from autotune.training.context import WHOLE_POOL, LoadedBackbones, TrialContext
from autotune.training.fold import mean_state, run_fold, run_soup
from autotune.training.outcome import DIVERGED, DONE, TIMEOUT, FoldEpoch, FoldOutcome
from autotune.training.params import Params
from autotune.training.probe import LinearProbe, probe_file_name
from autotune.training.trial import run_probe

NAME = "efficientnet_lite0"
PARAMS = Params(NAME, 1, 64, 1e-5, 1e-3, "one-cycle", 0.5, 0.0, "adamw", 32, 1e-2, 0.2, 0.0)
SCRATCH = replace(PARAMS, backbone="small_cnn", depth=3, pixels=32)


class Epochs:
    """A reporter that stores the rows and asks to stop after `stop_after` of them."""

    def __init__(self, stop_after: int = 0) -> None:
        self.rows: list[FoldEpoch] = []
        self._stop_after = stop_after

    def epoch(self, row: FoldEpoch) -> str | None:
        self.rows.append(row)
        return TIMEOUT if len(self.rows) == self._stop_after else None

    def check_time(self) -> None:
        """There is no time limit."""

    def cache_progress(self, done: int, total: int) -> None:
        pass


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    root = write_digits(tmp_path_factory.mktemp("folds") / "digits", classes=3, each=40)
    return trial_context(root, epochs=3, backbone=[NAME, "small_cnn"], pixels=[64])


@pytest.fixture(scope="module")
def files(context: TrialContext) -> dict[str, bytes]:
    probe = LinearProbe.from_bytes(run_probe(LoadedBackbones(context), NAME, 64, KeptEpochs()).head)
    # The strongest penalty: with the one that the search chooses here, the networks fit and their average disagrees.
    return {probe_file_name(NAME, 64): replace(probe, inverse_penalty=1e-4).to_bytes()}


@pytest.fixture
def trained(context: TrialContext, files: dict[str, bytes], tmp_path: Path) -> Callable[..., FoldOutcome]:
    def train(fold: int, params: Params = PARAMS, context: TrialContext = context, **reporter: int) -> FoldOutcome:
        return run_fold(LoadedBackbones(context), 3, params, fold, 3, files, tmp_path, Epochs(**reporter))

    return train


def state(outcome: FoldOutcome) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(outcome.checkpoint)


def equal(one: FoldOutcome, other: FoldOutcome) -> bool:
    return all(torch.equal(value, state(other)[name]) for name, value in state(one).items())


def with_wrong_labels(context: TrialContext, fold: int) -> TrialContext:
    """Return the context with the labels of one fold's pictures changed."""
    n = len(context.train)

    def planted(labels: tuple[int, ...], folds: tuple[int, ...]) -> tuple[int, ...]:
        pairs = zip(labels, folds, strict=True)
        return tuple((label + (own == fold)) % context.classes for label, own in pairs)

    train = replace(context.train, labels=planted(context.train.labels, context.folds[:n]))
    validation = replace(context.validation, labels=planted(context.validation.labels, context.folds[n:]))
    return replace(context, train=train, validation=validation)


@pytest.mark.slow
@pytest.mark.parametrize("params", [PARAMS, replace(PARAMS, depth=0), SCRATCH], ids=["probe", "head", "scratch"])
def test_nothing_of_a_folds_network_depends_on_the_labels_held_out(
    context: TrialContext, trained: Callable[..., FoldOutcome], params: Params
) -> None:
    plain = trained(1, params)
    assert plain.ended == DONE
    planted = trained(1, params, with_wrong_labels(context, 1))
    assert equal(plain, planted)
    assert plain.logits == planted.logits
    assert plain.epochs == planted.epochs
    assert not equal(plain, trained(1, params, with_wrong_labels(context, 2)))  # those it learns from


@pytest.mark.slow
def test_a_folds_network_predicts_exactly_the_pictures_held_out(
    context: TrialContext, trained: Callable[..., FoldOutcome]
) -> None:
    logits = safetensors.torch.load(trained(1).logits)["logits"]
    held_out = context.held_out(1)
    assert logits.shape == (len(held_out), 3)
    assert float((logits.argmax(1) == torch.tensor(held_out.labels)).float().mean()) > 0.6  # in the order of the labels
    assert safetensors.torch.load(trained(WHOLE_POOL).logits)["logits"].shape == (0, 3)


@pytest.mark.slow
def test_an_interrupted_fold_resumes_to_the_same_network(trained: Callable[..., FoldOutcome]) -> None:
    whole = trained(2)
    stopped = trained(2, stop_after=1)
    assert (stopped.ended, stopped.checkpoint) == (TIMEOUT, b"")
    assert equal(whole, trained(2))


@pytest.mark.slow
def test_a_diverged_fold_has_no_network(trained: Callable[..., FoldOutcome]) -> None:
    outcome = trained(1, replace(PARAMS, optimizer="sgd", lr_low=1e30, lr_high=1e38))
    assert (outcome.ended, outcome.checkpoint, outcome.logits) == (DIVERGED, b"", b"")


@pytest.mark.slow
def test_a_soup_is_the_mean_of_the_weights_and_is_compared_with_the_mean_probability(
    context: TrialContext, trained: Callable[..., FoldOutcome]
) -> None:
    members = [trained(fold) for fold in (0, 1, 2)]
    soup = run_soup(LoadedBackbones(context), PARAMS, [one.checkpoint for one in members], Epochs())
    found = safetensors.torch.load(soup.checkpoint)
    name = next(name for name, value in sorted(found.items()) if value.is_floating_point())  # in no order in the file
    expected = torch.stack([state(one)[name] for one in members]).mean(0)
    torch.testing.assert_close(found[name], expected)
    assert 0 <= soup.divergence < 0.2
    same = run_soup(LoadedBackbones(context), PARAMS, [members[0].checkpoint] * 2, Epochs())
    assert same.divergence == pytest.approx(0, abs=1e-9)
    assert same.changed == 0
    strange = {name: -5 * value for name, value in state(members[1]).items() if name.startswith("head.")}
    broken = safetensors.torch.save({**state(members[1]), **strange})
    assert run_soup(LoadedBackbones(context), PARAMS, [members[0].checkpoint, broken], Epochs()).changed > 0.05


def test_integers_of_a_state_are_kept_and_floats_averaged() -> None:
    one, other = ({"a": torch.full((2,), float(n)), "n": torch.tensor(7)} for n in (1, 3))
    found = mean_state([one, other])
    assert found["a"].tolist() == [2.0, 2.0]
    assert found["n"] == 7


@pytest.mark.parametrize(
    ("cycle", "best", "expected"),
    [("one-cycle", 3, 12), ("triangular", 1, 3), ("triangular", 5, 6), ("triangular2", 12, 12), ("triangular", 4, 3)],
)
def test_a_fold_is_trained_to_the_end_of_its_schedule(cycle: str, best: int, expected: int) -> None:
    assert fold_epochs(cycle, best, cycle_epochs=3, epochs=12) == expected
