"""The phases of a recipe: what each trains, where it starts, and what an interruption keeps."""

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import write_digits
from small_trials import KeptEpochs, trial_context
from torch import Tensor

from autotune.training.context import LoadedBackbones, TrialContext
from autotune.training.fold import run_fold
from autotune.training.lightning import phased, recorder, trainer
from autotune.training.lightning.trainable import TrainableNetwork
from autotune.training.network import build_network
from autotune.training.outcome import DONE, GAP, TIMEOUT, Epoch, FoldEpoch, OutOfTimeError, TrialOutcome
from autotune.training.params import Params, Phase
from autotune.training.phases import phase_of, planned_phases
from autotune.training.trial import run_trial

NAME = "efficientnet_lite0"
HEAD = Phase(2, 1, 0, 1e-3, 1e-3, "triangular", 0.0, 0.0, "rmsprop", 32, 0.0, 0.0, 0.0)
LAST_TWO = replace(HEAD, epochs=2, depth=2, lr_low=1e-4, lr_high=1e-3, optimizer="adamw", augment=0.5)
LAST = replace(HEAD, epochs=1, depth=1, batch_size=16)


def recipe(*phases: Phase) -> Params:
    last = phases[-1]
    depth = max(phase.depth for phase in phases)
    return Params(NAME, depth, 32, last.lr_low, last.lr_high, last.cycle, last.augment, 0.0, last.optimizer,
                  last.batch_size, 0.0, 0.0, 0.0, phases=phases)  # fmt: skip


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    root = write_digits(tmp_path_factory.mktemp("phases") / "digits", classes=3, each=40)
    return trial_context(root, epochs=3, backbone=[NAME], pixels=[32], patience=1, gap=0.0)


def train(context: TrialContext, params: Params, scratch: Path, reporter: KeptEpochs | None = None) -> TrialOutcome:
    return run_trial(LoadedBackbones(context), 0, params, {}, scratch, reporter or KeptEpochs())


def test_a_phase_takes_what_the_cache_holds_of_stages_that_none_has_trained() -> None:
    phases = planned_phases(recipe(HEAD, LAST_TWO, LAST), epochs=9, cycle_epochs=3)
    assert [one.params.depth for one in phases] == [0, 2, 2]
    assert [one.n_trained for one in phases] == [0, 2, 1]
    assert [one.params.optimizer for one in phases] == ["rmsprop", "adamw", "rmsprop"]
    assert [phase_of(phases, epoch) for epoch in (1, 2, 3, 5)] == [(0, 1), (0, 2), (1, 1), (2, 1)]
    (only,) = planned_phases(replace(recipe(LAST_TWO), phases=()), epochs=9, cycle_epochs=3)
    assert (only.n_trained, only.epochs, only.cycle_epochs) == (2, 9, 3)


def test_a_head_that_is_trained_first_takes_a_third_of_the_epochs_at_a_higher_rate() -> None:
    params = replace(recipe(LAST_TWO), phases=(), n_phases=2)
    head, rest = planned_phases(params, epochs=9, cycle_epochs=3)
    assert (head.epochs, head.n_trained, head.params.depth) == (3, 0, 0)
    assert head.params.lr_high == pytest.approx(27 * params.lr_high)
    assert (rest.epochs, rest.n_trained, rest.params) == (6, 2, params)
    for alone in (replace(params, depth=0), replace(params, n_phases=1)):
        (only,) = planned_phases(alone, epochs=9, cycle_epochs=3)
        assert (only.n_trained, only.epochs) == (alone.depth, 9)
    assert len(planned_phases(params, epochs=1, cycle_epochs=1)) == 1
    assert Params.from_record(params.recorded()) == params
    assert "n_phases" not in replace(params, n_phases=1).recorded()


def test_the_gap_stops_a_trial_only_in_its_last_phase(
    context: TrialContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def stop(rows: list[Epoch], *_: object) -> bool:
        seen.append(len(rows))
        return True

    monkeypatch.setattr(recorder, "stops_on_gap", stop)
    params = replace(recipe(LAST_TWO), phases=(), n_phases=2)
    ended = train(replace(context, epochs=6), params, tmp_path, KeptEpochs())
    assert (ended.ended, ended.epochs, seen) == (GAP, 3, [1])


def test_a_recipe_is_recorded_and_read_again() -> None:
    params = recipe(HEAD, LAST_TWO)
    assert Params.from_record(params.recorded()) == params
    assert "phases" not in replace(params, phases=()).recorded()


@pytest.mark.slow
def test_all_phases_run_on_one_network_and_nothing_stops_them(context: TrialContext, tmp_path: Path) -> None:
    reporter = KeptEpochs()
    outcome = train(context, recipe(HEAD, LAST_TWO, LAST), tmp_path, reporter)
    assert (outcome.ended, outcome.epochs) == (DONE, 5)  # with a patience of 1 and no gap, a trial would stop
    assert [row.number for row in reporter.rows] == [1, 2, 3, 4, 5]
    assert list(tmp_path.iterdir()) == []
    assert min(row.loss for row in reporter.rows[2:]) < reporter.rows[0].loss


@pytest.mark.slow
@pytest.mark.parametrize("is_cached", [True, False])
def test_each_phase_trains_its_stages_only(
    context: TrialContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_cached: bool
) -> None:
    if not is_cached:
        context = replace(context, cuts={(NAME, 32): ()})
    seen: list[dict[str, Tensor]] = []
    start = TrainableNetwork.configure_optimizers

    def noted(self: TrainableNetwork) -> object:
        seen.append(self.state())
        return start(self)

    monkeypatch.setattr(TrainableNetwork, "configure_optimizers", noted)
    backbones = LoadedBackbones(context)
    params = recipe(HEAD, LAST_TWO, LAST, LAST)
    untrained = build_network(backbones, params, seed=0, with_prefix=False).state()
    train(context, params, tmp_path)

    def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
        changed = [name for name in before if not torch.equal(before[name], after[name])]
        return {".".join(name.split(".")[:2]) for name in changed}

    tail = {name: value for name, value in untrained.items() if name.startswith("tail.")}
    at_start, after_head, after_last_two, after_last = seen
    assert moved(tail, at_start) == set()
    assert moved(at_start, after_head) == {"head.1"}
    assert moved(after_head, after_last_two) == {"head.1", "tail.7", "tail.8"}
    assert moved(after_last_two, after_last) == {"head.1", "tail.8"}


class KilledError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["within the first", "between the first and the second", "within the second"])
def test_a_killed_recipe_resumes_to_the_same_result(
    context: TrialContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    params = recipe(HEAD, LAST_TWO)
    whole = train(context, params, tmp_path)
    step, fit = TrainableNetwork.training_step, TrainableNetwork.configure_optimizers
    done = KeptEpochs()

    def killed_in_training(self: TrainableNetwork, batch: object, index: int) -> object:
        n_before = {"within the first": 1, "within the second": 3}.get(phase, 9)
        if len(done.rows) == n_before and index == 1:
            raise KilledError
        return step(self, batch, index)  # type: ignore[arg-type]

    def killed_at_the_start(self: TrainableNetwork) -> object:
        if phase.startswith("between") and len(done.rows) == 2:
            raise KilledError
        return fit(self)

    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(trainer, "CHECKPOINT_RATIO", 0)
    monkeypatch.setattr(phased, "HEAD_STEPS", 1)  # otherwise an epoch of a head is one batch of Lightning's
    with monkeypatch.context() as patch:
        patch.setattr(TrainableNetwork, "training_step", killed_in_training)
        patch.setattr(TrainableNetwork, "configure_optimizers", killed_at_the_start)
        with pytest.raises(KilledError):
            train(context, params, tmp_path, done)
    kept = {file.name for file in tmp_path.iterdir()}
    assert kept <= {f"{which}trial-0000.unfinished.ckpt" for which in ("", "start-1-", "phase-1-")}
    reporter = KeptEpochs()
    resumed = train(context, params, tmp_path, reporter)
    assert reporter.rows[0].number > (1 if phase == "within the first" else 2)
    assert (resumed.value, resumed.log_loss, resumed.epochs) == (whole.value, whole.log_loss, whole.epochs)
    assert resumed.checkpoint == whole.checkpoint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_recipe_whose_time_is_over_ends_with_the_epochs_before(context: TrialContext, tmp_path: Path) -> None:
    outcome = train(context, recipe(HEAD, LAST_TWO), tmp_path, KeptEpochs(3, TIMEOUT))
    assert (outcome.ended, outcome.epochs) == (TIMEOUT, 3)
    with pytest.raises(OutOfTimeError):
        train(context, recipe(HEAD, LAST_TWO), tmp_path, KeptEpochs(most_batches=1))


class Folds(KeptEpochs):
    def epoch(self, row: FoldEpoch) -> str | None:  # type: ignore[override]
        assert row.epochs == 4
        self.numbers = [*getattr(self, "numbers", ()), row.number]
        return None


@pytest.mark.slow
def test_in_the_finals_all_phases_are_trained_on_each_fold(context: TrialContext, tmp_path: Path) -> None:
    reporter = Folds()
    found = run_fold(LoadedBackbones(context), 0, recipe(HEAD, LAST_TWO), 1, 3, {}, tmp_path, reporter)
    assert (found.ended, found.epochs, reporter.numbers) == (DONE, 4, [1, 2, 3, 4])
    assert len(safetensors.torch.load(found.logits)["logits"]) == len(context.held_out(1))
    state = safetensors.torch.load(found.checkpoint)
    assert {name.split(".")[1] for name in state if name.startswith("tail.")} == {"7", "8"}
    assert list(tmp_path.iterdir()) == []
