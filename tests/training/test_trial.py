from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import photos, write_digits
from small_trials import KeptEpochs, trial_context

from autotune.cache.pixels import pixel_rows
from autotune.training.context import LoadedBackbones, TrialContext
from autotune.training.gap import is_better, smoothed_gap, stops_on_gap
from autotune.training.lightning import phased, trainer
from autotune.training.lightning.trainable import TrainableNetwork
from autotune.training.metrics import score
from autotune.training.outcome import Epoch, OutOfTimeError, TrialOutcome
from autotune.training.params import Params
from autotune.training.probe import probe_file_name, probe_of
from autotune.training.restore import network_from_checkpoint
from autotune.training.trial import run_probe, run_trial

BASE = Params("small_cnn", 3, 32, 1e-5, 1e-3, "one-cycle", 0.5, 0.0, "adamw", 32, 1e-2, 0.2, 0.0)


def row(number: int, train: float, validation: float, gap: float) -> Epoch:
    return Epoch(number, 0.0, 0.0, train, validation, 1.0, gap, True, 0.0)


def rows(*values: tuple[float, float]) -> list[Epoch]:
    gaps = smoothed_gap(values)
    return [row(i, *value, gap) for i, (value, gap) in enumerate(zip(values, gaps, strict=True), 1)]


def test_a_wide_gap_without_better_validation_stops_a_trial() -> None:
    curve = rows((0.6, 0.6), (0.8, 0.7), (0.95, 0.7), (0.99, 0.69), (1.0, 0.7))
    assert stops_on_gap(curve, patience=3, cycle_epochs=1, most=0.05)


def test_a_trial_with_better_validation_continues_at_any_gap() -> None:
    curve = rows((0.6, 0.5), (0.9, 0.6), (0.95, 0.61), (0.99, 0.62), (1.0, 0.63))
    assert not stops_on_gap(curve, patience=3, cycle_epochs=1, most=0.05)


def test_a_stalled_trial_without_a_gap_continues() -> None:
    curve = rows((0.8, 0.85), (0.7, 0.8), (0.7, 0.8), (0.7, 0.8), (0.7, 0.8))
    assert not stops_on_gap(curve, patience=3, cycle_epochs=1, most=0.05)


def test_a_small_growing_gap_stops_a_trial() -> None:
    curve = rows((0.8, 0.8), (0.81, 0.8), (0.82, 0.8), (0.83, 0.8), (0.84, 0.8))
    assert curve[-1].gap < 0.05
    assert stops_on_gap(curve, patience=3, cycle_epochs=1, most=0.05)


def test_growth_of_less_than_a_percentage_point_does_not_stop_a_trial() -> None:
    curve = rows((0.8, 0.8), (0.8, 0.795), (0.8, 0.795), (0.8, 0.795), (0.8, 0.795))
    assert 0.0 < curve[-1].gap < 0.01
    assert not stops_on_gap(curve, patience=3, cycle_epochs=1, most=0.05)


def test_a_lower_log_loss_at_an_equal_metric_is_an_improvement() -> None:
    curve = rows((0.6, 0.6), (0.8, 0.7), (0.95, 0.7), (0.99, 0.7), (1.0, 0.7))
    assert stops_on_gap(curve, patience=3, cycle_epochs=1, most=0.05)
    later = [*curve[:3], replace(curve[3], log_loss=0.9), curve[4]]
    assert not stops_on_gap(later, patience=3, cycle_epochs=1, most=0.05)


def test_a_trial_is_not_stopped_by_the_gap_within_a_cycle() -> None:
    curve = rows((0.6, 0.7), *[(1.0, 0.6)] * 4)
    assert stops_on_gap(curve, patience=3, cycle_epochs=1, most=0.05)
    assert not stops_on_gap(curve, patience=3, cycle_epochs=5, most=0.05)


def test_at_equal_metrics_the_lower_log_loss_is_better() -> None:
    better, worse = row(1, 1, 0.9, 0), replace(row(2, 1, 0.9, 0), log_loss=2.0)
    assert is_better(better, worse)
    assert not is_better(worse, better)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set the number of torch's threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.in_make_faults
@pytest.mark.slow
def test_the_gap_stops_a_trial_at_the_epoch_of_the_write_up(tmp_path: Path, threads: Callable[[int], None]) -> None:
    """In the produce write-up, the gap opened after epoch 3 to 4 of 20."""
    context = trial_context(photos("produce"), epochs=20, pixels=[96], backbone=["efficientnet_lite0"], depth=[2])
    threads(context.threads)  # as in a worker: sums in another order stopped this trial one epoch later
    backbones = LoadedBackbones(context)
    reporter = KeptEpochs()
    probe = run_probe(backbones, "efficientnet_lite0", 96, reporter)
    files = {probe_file_name("efficientnet_lite0", 96): probe.head}
    params = replace(BASE, backbone="efficientnet_lite0", depth=2, pixels=96, augment=0.0, cycle="triangular")
    outcome = run_trial(backbones, 0, params, files, tmp_path, reporter)
    assert outcome.ended == "gap"
    assert 6 <= outcome.epochs <= 14  # the best epoch is one of the first few; patience is 5
    assert reporter.rows[-1].train > reporter.rows[-1].validation + 0.05
    assert outcome.value == max(r.validation for r in reporter.rows)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    root = write_digits(tmp_path_factory.mktemp("trial") / "digits", classes=4, each=60)
    return trial_context(root, epochs=4, backbone=["small_cnn"])


def trained(
    context: TrialContext, number: int, scratch: Path, reporter: KeptEpochs, params: Params = BASE
) -> TrialOutcome:
    return run_trial(LoadedBackbones(context), number, params, {}, scratch, reporter)


@pytest.mark.slow
def test_the_checkpoint_is_that_of_the_best_epoch(context: TrialContext, tmp_path: Path) -> None:
    reporter = KeptEpochs()
    outcome = trained(context, 1, tmp_path, reporter, replace(BASE, lr_high=0.05, cycle="triangular"))
    best = max(reporter.rows, key=lambda r: (r.validation, -r.log_loss))
    assert (outcome.value, outcome.best_epoch) == (best.validation, best.number)
    assert outcome.checkpoint
    net = network_from_checkpoint(LoadedBackbones(context), BASE, outcome.checkpoint, tmp_path).net
    store = pixel_rows(32, "bilinear")
    part = context.validation
    with torch.no_grad():
        predictions = net([torch.from_numpy(store.take(store.places(part.digests)))]).argmax(1).numpy()
    assert score("accuracy", torch.tensor(part.labels).numpy(), predictions, 4) == outcome.value


@pytest.mark.slow
def test_a_pruned_trial_has_no_checkpoint(context: TrialContext, tmp_path: Path) -> None:
    outcome = trained(context, 2, tmp_path, KeptEpochs(stop_after=2))
    assert (outcome.ended, outcome.epochs, outcome.checkpoint) == ("pruned", 2, None)


@pytest.mark.slow
def test_a_timed_out_trial_has_a_checkpoint(context: TrialContext, tmp_path: Path) -> None:
    outcome = trained(context, 3, tmp_path, KeptEpochs(2, "timeout"))
    assert outcome.ended == "timeout"
    assert outcome.checkpoint


@pytest.mark.slow
def test_a_trial_whose_time_is_over_within_an_epoch_ends_with_those_before(
    context: TrialContext, tmp_path: Path
) -> None:
    whole, cut = KeptEpochs(), KeptEpochs(most_batches=25)
    trained(context, 3, tmp_path, whole)
    outcome = trained(context, 3, tmp_path, cut)
    assert 1 <= outcome.epochs < len(whole.rows)
    assert [row.validation for row in cut.rows] == [row.validation for row in whole.rows][: outcome.epochs]
    assert outcome.ended == "timeout"
    assert outcome.checkpoint
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutOfTimeError):
        trained(context, 3, tmp_path, KeptEpochs(most_batches=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    [
        "in the middle of an epoch",
        pytest.param("on an epoch's first batch", marks=pytest.mark.in_make_faults),
        pytest.param("in its validation", marks=pytest.mark.in_make_faults),
    ],
)
def test_a_killed_trial_resumes_from_its_checkpoint_to_the_same_result(
    context: TrialContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """With a checkpoint at every step, the resumed trial equals an uninterrupted one."""
    reference_rows, rows = KeptEpochs(), KeptEpochs()
    reference = trained(context, 7, tmp_path, reference_rows)

    class KilledError(Exception):
        pass

    steps = len(context.train) // BASE.batch_size
    die_at = {"in the middle of an epoch": steps + steps // 2, "on an epoch's first batch": 2 * steps + 1}.get(where, 0)
    step, validation = TrainableNetwork.training_step, TrainableNetwork.validation_step

    def killed_in_training(self: TrainableNetwork, batch: object, index: int) -> object:
        if die_at and self.global_step >= die_at:
            raise KilledError
        return step(self, batch, index)  # type: ignore[arg-type]

    def killed_in_validation(self: TrainableNetwork, *args: object, **more: object) -> object:
        if not die_at and len(rows.rows) == 1:
            raise KilledError
        return validation(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(trainer, "CHECKPOINT_RATIO", 0)
    with monkeypatch.context() as patch:
        patch.setattr(TrainableNetwork, "training_step", killed_in_training)
        patch.setattr(TrainableNetwork, "validation_step", killed_in_validation)
        with pytest.raises(KilledError):
            trained(context, 7, tmp_path, rows)
    assert [file.name for file in tmp_path.iterdir()] == ["trial-0007.unfinished.ckpt"]
    reporter = KeptEpochs()
    resumed = trained(context, 7, tmp_path, reporter)
    reported = {row.number: row.validation for row in (*rows.rows, *reporter.rows)}
    assert reported == {row.number: row.validation for row in reference_rows.rows}
    assert (resumed.value, resumed.log_loss, resumed.epochs) == (reference.value, reference.log_loss, reference.epochs)
    assert resumed.checkpoint == reference.checkpoint
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_batch_in_parts_has_the_same_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dropout, and with BatchNorm's statistics frozen, as in all pretrained networks."""
    root = write_digits(tmp_path / "digits", classes=4, each=20)
    context = trial_context(root, epochs=2, backbone=["efficientnet_lite0"], pixels=[64], depth=[1])
    backbones = LoadedBackbones(context)
    probe = run_probe(backbones, "efficientnet_lite0", 64, KeptEpochs())
    files = {probe_file_name("efficientnet_lite0", 64): probe.head}
    params = replace(BASE, backbone="efficientnet_lite0", depth=1, pixels=64, dropout=0.0, optimizer="sgd")

    def trained_in(n_parts: int) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(trainer, "N_PARTS", (n_parts,))
        outcome = run_trial(backbones, 0, params, files, tmp_path, KeptEpochs())
        assert outcome.n_parts == n_parts
        return safetensors.torch.load(outcome.checkpoint or b"")

    whole, halves = trained_in(1), trained_in(2)
    start = probe_of(params, files).head().weight
    assert whole.keys() == halves.keys()
    difference = max(float((whole[name] - halves[name]).abs().max()) for name in whole)
    assert difference < float((whole["head.1.weight"] - start).abs().max()) / 20


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_steps_of_a_head_that_are_taken_together_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    context = trial_context(write_digits(tmp_path / "digits", classes=2, each=60), epochs=3, pixels=[32])
    backbones = LoadedBackbones(context)
    params = replace(BASE, backbone="efficientnet_lite0", depth=0, batch_size=8, optimizer=optimizer, mixup=0.2)
    run_probe(backbones, params.backbone, params.pixels, KeptEpochs())

    def head(steps: int) -> tuple[TrialOutcome, int]:
        """Return the outcome, and how many batches Lightning has passed on."""
        calls = []
        reporter = KeptEpochs()
        monkeypatch.setattr(reporter, "check_time", lambda: calls.append(1))
        monkeypatch.setattr(phased, "HEAD_STEPS", steps)
        return run_trial(backbones, 0, params, {}, tmp_path, reporter), len(calls)

    (one, n_one), (several, n_several) = head(1), head(5)  # an epoch has more steps, and no multiple of five
    assert n_several < n_one
    assert one.checkpoint == several.checkpoint
    assert (one.value, one.log_loss) == (several.value, several.log_loss)


@pytest.mark.slow
def test_a_truncated_checkpoint_is_ignored(context: TrialContext, tmp_path: Path) -> None:
    (tmp_path / "trial-0008.unfinished.ckpt").write_bytes(b"PK\x03\x04 truncated")
    reporter = KeptEpochs()
    trained(context, 8, tmp_path, reporter)
    assert [row.number for row in reporter.rows] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_trial_with_unfrozen_stages_starts_from_the_probes_head(tmp_path: Path) -> None:
    """At a learning rate of nearly 0, its validation score is that of the probe."""
    root = write_digits(tmp_path / "digits", classes=4, each=40)
    context = trial_context(root, epochs=1, backbone=["efficientnet_lite0"], pixels=[64], depth=[1])
    backbones = LoadedBackbones(context)
    params = replace(BASE, backbone="efficientnet_lite0", depth=1, pixels=64, lr_low=1e-12, lr_high=1e-12)
    probe = run_probe(backbones, "efficientnet_lite0", 64, KeptEpochs())
    files = {probe_file_name("efficientnet_lite0", 64): probe.head}
    assert run_trial(backbones, 0, params, files, tmp_path, KeptEpochs()).value == pytest.approx(probe.value, abs=0.07)
