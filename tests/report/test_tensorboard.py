"""What TensorBoard reads back is what the record has."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autotune.errors import AutotuneError
from autotune.report.tensorboard import TensorBoardListener
from autotune.study.listener import StudyListener
from autotune.study.record import Record
from autotune.study.request import SearchRequest
from autotune.study.run import run_study
from autotune.study.summary import Summary
from autotune.training.outcome import Epoch

SHOWN = {
    "accuracy/train": "train",
    "accuracy/validation": "validation",
    "accuracy/gap": "gap",
    "loss/loss": "loss",
    "loss/log_loss": "log_loss",
    "learning_rate": "rate",
}


def search(data: Path, trials: int, listener: StudyListener | None = None) -> Summary:
    flags = {"epochs": 4, "backbone": ["small_cnn"]}
    request = SearchRequest(data=data, name="s", trials=trials, device="cpu", flags=flags)
    return run_study(request, listener or TensorBoardListener())


def run_of(folder: Path, trial: int) -> EventAccumulator:
    run = EventAccumulator(str(folder / "tensorboard" / f"trial-{trial:04d}"))
    return run.Reload()  # type: ignore[no-any-return]


def points(run: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in run.Scalars(name)]


def is_the_records_copy(folder: Path) -> bool:
    """Every trial has a run, with the record's curve point for point, its choices, and what came of them."""
    record = Record(folder / "record.db")
    rows = record.trials()
    assert sorted(p.name for p in (folder / "tensorboard").iterdir()) == sorted(f"trial-{r.number:04d}" for r in rows)
    for row in rows:
        run, curve = run_of(folder, row.number), record.curve(row.number)
        for name, column in SHOWN.items():
            steps, values = zip(*points(run, name), strict=True)
            assert steps == tuple(epoch.number for epoch in curve), name
            assert values == pytest.approx([getattr(epoch, column) for epoch in curve], rel=1e-6), name
        assert [value for _, value in points(run, "hparam/accuracy")] == [pytest.approx(row.value)]
        assert [value for _, value in points(run, "hparam/log_loss")] == [pytest.approx(row.log_loss)]
        assert choices(run) == row.params.recorded()
    record.close()
    return bool(rows)


def choices(run: EventAccumulator) -> dict[str, Any]:
    """A run's hyperparameters as TensorBoard's table shows them."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    found = {}
    for content in run.PluginTagToContent("hparams").values():
        data = HParamsPluginData.FromString(content)
        for name, value in data.session_start_info.hparams.items():
            found[name] = getattr(value, value.WhichOneof("kind"))
    return found


@pytest.mark.slow
def test_tensorboard_shows_every_trial_as_the_record_has_it(here: Path, digits: Path) -> None:
    search(digits, 3)
    assert is_the_records_copy(here / "studies" / "s")


@pytest.mark.slow
def test_trials_from_before_are_shown_too_and_none_twice(here: Path, digits: Path) -> None:
    """Two trials without it, one more with it; then a finished study is asked again."""
    folder = here / "studies" / "s"
    search(digits, 2, StudyListener())
    assert not (folder / "tensorboard").exists()
    search(digits, 3)
    assert is_the_records_copy(folder)
    search(digits, 3)
    assert is_the_records_copy(folder)
    shutil.rmtree(folder / "tensorboard")
    search(digits, 3)
    assert is_the_records_copy(folder)


@pytest.mark.slow
@pytest.mark.parametrize("told", [2])
def test_a_trial_that_is_cut_off_and_goes_on_has_each_epoch_once(here: Path, digits: Path, told: int) -> None:
    """Cut off after an epoch, or after the last one, before its end is told."""

    class CutOff(TensorBoardListener):
        def epoch(self, number: int, row: Epoch) -> None:
            super().epoch(number, row)
            if row.number == told:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(digits, 2, CutOff())
    folder = here / "studies" / "s"
    assert [step for step, _ in points(run_of(folder, 0), "loss/loss")] == list(range(1, told + 1))
    search(digits, 2)
    assert is_the_records_copy(folder)


def test_an_epoch_heard_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    """As from a worker that was killed and started again in one run of the driver."""
    record = Record(tmp_path / "record.db")
    board = TensorBoardListener()
    board.opened(tmp_path, "accuracy", record)
    old = [Epoch(number, 1e-3, 2.0, 0.5, 0.5, 1.0, 0.0, False, 1.0) for number in (1, 2, 3)]
    for row in old:
        record.keep_epoch(7, row)
        board.epoch(7, row)
    new = [Epoch(number, 1e-3, 1.0, 0.6, 0.6, 0.9, 0.0, False, 1.0) for number in (2, 3)]
    for row in new:
        record.keep_epoch(7, row)
        board.epoch(7, row)
    assert points(run_of(tmp_path, 7), "loss/loss") == [(1, 2.0), (2, 1.0), (3, 1.0)]
    record.close()


def test_without_tensorboard_nothing_starts(here: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard" or "utils.tensorboard" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(AutotuneError) as error:
        search(digits, 1)
    assert "pip install 'autotune-vision[tensorboard]'" in error.value.fix
    assert not (here / "studies").exists()
