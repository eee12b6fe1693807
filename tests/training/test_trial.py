from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import photos, write_digits

from autotune.backbones.registry import discover
from autotune.cache.pixels import fill_pixels, pixel_rows
from autotune.data.catalog import read_catalog
from autotune.data.split import split_catalog
from autotune.search.candidates import select_backbones
from autotune.search.plan import build_context, make_plan
from autotune.search.settings import read_settings
from autotune.training import trainer
from autotune.training.context import LoadedBackbones, TrialContext
from autotune.training.metrics import score
from autotune.training.network import TrialNetwork
from autotune.training.outcome import Epoch
from autotune.training.params import Params
from autotune.training.recorder import is_better, smoothed_gap, stops_on_gap
from autotune.training.restore import restore_network
from autotune.training.trial import run_probe, run_trial

BASE = Params("small_cnn", 3, 32, 1e-5, 1e-3, "one-cycle", 0.5, 0.0, "adamw", 32, 1e-2, 0.2, 0.0)


class Listener:
    """The driver's end of the line: keeps the rows, and stops or dies where it is told to."""

    def __init__(self, stop_after: int = 0, reason: str = "pruned") -> None:
        self.rows: list[Epoch] = []
        self.stop_after = stop_after
        self.reason = reason

    def epoch(self, row: Epoch) -> str | None:
        self.rows.append(row)
        return self.reason if len(self.rows) == self.stop_after else None

    def banking(self, done: int, total: int) -> None:
        pass


def context(root: Path, folder: Path, **flags: object) -> TrialContext:
    settings = read_settings(None, flags, is_writing=True)
    parts = split_catalog(read_catalog(root), settings.seed)
    chosen = select_backbones(settings, discover(), None, "cpu", parts.side, print)
    for one in chosen.candidates:
        how = one.backbone.traits.interpolation
        for size in one.options.pixels:
            rest = (*parts.part("train"), *parts.part("validation"))
            fill_pixels(pixel_rows(size, how), root, rest, how, lambda *_: None)
    (folder / "checkpoints").mkdir(exist_ok=True)
    return build_context(make_plan(settings, parts, chosen), 1, folder)


def row(number: int, train: float, validation: float, gap: float) -> Epoch:
    return Epoch(number, 0.0, 0.0, train, validation, 1.0, gap, True, 0.0)


def rows(*values: tuple[float, float]) -> list[Epoch]:
    gaps = smoothed_gap(values)
    return [row(i, *value, gap) for i, (value, gap) in enumerate(zip(values, gaps, strict=True), 1)]


def test_a_wide_gap_without_better_validation_stops() -> None:
    curve = rows((0.6, 0.6), (0.8, 0.7), (0.95, 0.7), (0.99, 0.69), (1.0, 0.7))
    assert stops_on_gap(curve, patience=3, cycle_epochs=1, most=0.05)


def test_better_validation_goes_on_whatever_the_gap() -> None:
    curve = rows((0.6, 0.5), (0.9, 0.6), (0.95, 0.61), (0.99, 0.62), (1.0, 0.63))
    assert not stops_on_gap(curve, patience=3, cycle_epochs=1, most=0.05)


def test_a_stall_without_a_gap_goes_on() -> None:
    curve = rows((0.8, 0.85), (0.7, 0.8), (0.7, 0.8), (0.7, 0.8), (0.7, 0.8))
    assert not stops_on_gap(curve, patience=3, cycle_epochs=1, most=0.05)


def test_a_small_gap_that_grows_stops() -> None:
    curve = rows((0.8, 0.8), (0.81, 0.8), (0.82, 0.8), (0.83, 0.8), (0.84, 0.8))
    assert curve[-1].gap < 0.05
    assert stops_on_gap(curve, patience=3, cycle_epochs=1, most=0.05)


def test_a_whole_cycle_is_waited_for() -> None:
    curve = rows((0.6, 0.7), *[(1.0, 0.6)] * 4)
    assert stops_on_gap(curve, patience=3, cycle_epochs=1, most=0.05)
    assert not stops_on_gap(curve, patience=3, cycle_epochs=5, most=0.05)


def test_between_equal_epochs_the_surer_is_better() -> None:
    sure, unsure = row(1, 1, 0.9, 0), replace(row(2, 1, 0.9, 0), log_loss=2.0)
    assert is_better(sure, unsure)
    assert not is_better(unsure, sure)


@pytest.mark.slow
def test_the_gap_ends_a_trial_where_the_write_up_saw_it(tmp_path: Path) -> None:
    """The produce write-up: training ran away from validation after epoch 3 to 4 of 20."""
    told = context(photos("produce"), tmp_path, epochs=20, pixels=[96], backbone=["efficientnet_lite0"], depth=[2])
    opened = LoadedBackbones(told)
    listener = Listener()
    run_probe(opened, "efficientnet_lite0", 96, listener)
    params = replace(BASE, backbone="efficientnet_lite0", depth=2, pixels=96, augment=0.0, cycle="triangular")
    outcome = run_trial(opened, 0, params, listener)
    assert outcome.ended == "gap"
    assert 6 <= outcome.epochs <= 14  # the best of the first few, and a patience of 5
    assert listener.rows[-1].train > listener.rows[-1].validation + 0.05
    assert outcome.value == max(r.validation for r in listener.rows)


@pytest.fixture(scope="module")
def digits_lesson(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    root = write_digits(tmp_path_factory.mktemp("lesson") / "digits", classes=4, each=60)
    return context(root, tmp_path_factory.mktemp("study"), epochs=4, backbone=["small_cnn"])


@pytest.mark.slow
def test_the_best_epoch_is_the_one_kept(digits_lesson: TrialContext) -> None:
    opened = LoadedBackbones(digits_lesson)
    listener = Listener()
    outcome = run_trial(opened, 1, replace(BASE, lr_high=0.05, cycle="triangular"), listener)
    best = max(listener.rows, key=lambda r: (r.validation, -r.log_loss))
    assert (outcome.value, outcome.best_epoch) == (best.validation, best.number)
    trial = {"number": 1, "checkpoint": outcome.checkpoint, "params": BASE.__dict__}
    net = restore_network(opened, trial).net
    store = pixel_rows(32, "bilinear")
    part = digits_lesson.validation
    with torch.no_grad():
        said = net([torch.from_numpy(store.take(store.places(part.digests)))]).argmax(1).numpy()
    assert score("accuracy", torch.tensor(part.labels).numpy(), said, 4) == outcome.value


@pytest.mark.slow
def test_a_pruned_trial_keeps_no_checkpoint(digits_lesson: TrialContext) -> None:
    outcome = run_trial(LoadedBackbones(digits_lesson), 2, BASE, Listener(stop_after=2))
    assert (outcome.ended, outcome.epochs, outcome.checkpoint) == ("pruned", 2, None)


@pytest.mark.slow
def test_a_trial_that_time_ends_counts(digits_lesson: TrialContext) -> None:
    outcome = run_trial(LoadedBackbones(digits_lesson), 3, BASE, Listener(2, "timeout"))
    assert outcome.ended == "timeout"
    assert (digits_lesson.folder / str(outcome.checkpoint)).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["in the middle of an epoch", "on an epoch's first batch", "in its validation"])
def test_a_killed_trial_goes_on_from_its_checkpoint_to_the_same_end(
    digits_lesson: TrialContext, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Checkpoints are taken at every step; what is trained from the last one is what would have been."""
    straight_rows, rows = Listener(), Listener()
    straight = run_trial(LoadedBackbones(digits_lesson), 7, BASE, straight_rows)
    state = safetensors.torch.load_file(digits_lesson.folder / str(straight.checkpoint))

    class KilledError(Exception):
        pass

    steps = len(digits_lesson.train) // BASE.batch_size
    die_at = {"in the middle of an epoch": steps + steps // 2, "on an epoch's first batch": 2 * steps + 1}.get(where, 0)
    step, validation = TrialNetwork.training_step, TrialNetwork.validation_step

    def dying(self: TrialNetwork, batch: object, index: int) -> object:
        if die_at and self.global_step >= die_at:
            raise KilledError
        return step(self, batch, index)  # type: ignore[arg-type]

    def dying_in_validation(self: TrialNetwork, *args: object, **more: object) -> object:
        if not die_at and len(rows.rows) == 1:
            raise KilledError
        return validation(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(TrialNetwork, "training_step", dying)
        patch.setattr(TrialNetwork, "validation_step", dying_in_validation)
        with pytest.raises(KilledError):
            run_trial(LoadedBackbones(digits_lesson), 7, BASE, rows)
    assert list(digits_lesson.folder.glob("checkpoints/*.unfinished.ckpt"))
    listener = Listener()
    resumed = run_trial(LoadedBackbones(digits_lesson), 7, BASE, listener)
    told = {row.number: row.validation for row in (*rows.rows, *listener.rows)}
    assert told == {row.number: row.validation for row in straight_rows.rows}
    assert (resumed.value, resumed.log_loss, resumed.epochs) == (straight.value, straight.log_loss, straight.epochs)
    again = safetensors.torch.load_file(digits_lesson.folder / str(resumed.checkpoint))
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert not list(digits_lesson.folder.glob("checkpoints/*.unfinished.ckpt"))


@pytest.mark.slow
def test_a_torn_checkpoint_is_not_believed(digits_lesson: TrialContext) -> None:
    file = digits_lesson.folder / "checkpoints" / "trial-0008.unfinished.ckpt"
    file.write_bytes(b"PK\x03\x04 torn")
    listener = Listener()
    run_trial(LoadedBackbones(digits_lesson), 8, BASE, listener)
    assert [row.number for row in listener.rows] == [1, 2, 3, 4]
