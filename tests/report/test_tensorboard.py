"""TensorBoard logs contain the same values as the study record."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autotune.errors import AutotuneError
from autotune.report.tensorboard import TensorBoardListener
from autotune.study.listener import StudyListener
from autotune.study.request import SearchRequest
from autotune.study.run import run_study
from autotune.study.storage.record import Record
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
    flags = {"epochs": 4, "backbone": ["quick_cnn"]}
    request = SearchRequest(data=data, name="s", trials=trials, device="cpu", flags=flags)
    return run_study(request, listener or TensorBoardListener())


def load_run(folder: Path, trial: int) -> EventAccumulator:
    run = EventAccumulator(str(folder / "tensorboard" / f"trial-{trial:04d}"))
    return run.Reload()  # type: ignore[no-any-return]


def points(run: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in run.Scalars(name)]


def matches_record(folder: Path) -> bool:
    """Check that every trial has a run with the epochs, hyperparameters and scores of the record."""
    record = Record(folder / "record.db")
    rows = record.trials()
    assert sorted(p.name for p in (folder / "tensorboard").iterdir()) == sorted(f"trial-{r.number:04d}" for r in rows)
    for row in rows:
        run, curve = load_run(folder, row.number), record.curve(row.number)
        for name, column in SHOWN.items():
            steps, values = zip(*points(run, name), strict=True)
            assert steps == tuple(epoch.number for epoch in curve), name
            assert values == pytest.approx([getattr(epoch, column) for epoch in curve], rel=1e-6), name
        assert [value for _, value in points(run, "hparam/accuracy")] == [pytest.approx(row.value)]
        assert [value for _, value in points(run, "hparam/log_loss")] == [pytest.approx(row.log_loss)]
        assert hyperparameters(run) == row.params.recorded()
    record.close()
    return bool(rows)


def hyperparameters(run: EventAccumulator) -> dict[str, Any]:
    """Return a run's hyperparameters as shown in TensorBoard's table."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    found = {}
    for content in run.PluginTagToContent("hparams").values():
        data = HParamsPluginData.FromString(content)
        for name, value in data.session_start_info.hparams.items():
            found[name] = getattr(value, value.WhichOneof("kind"))
    return found


@pytest.mark.slow
def test_every_trial_is_written_with_the_values_of_the_record(here: Path, digits: Path) -> None:
    search(digits, 3)
    assert matches_record(here / "studies" / "s")


@pytest.mark.slow
def test_earlier_trials_are_written_and_no_trial_twice(here: Path, digits: Path) -> None:
    """Two trials run without TensorBoard, one with it; then the finished study is run again."""
    folder = here / "studies" / "s"
    search(digits, 2, StudyListener())
    assert not (folder / "tensorboard").exists()
    search(digits, 3)
    assert matches_record(folder)
    search(digits, 3)
    assert matches_record(folder)
    shutil.rmtree(folder / "tensorboard")
    search(digits, 3)
    assert matches_record(folder)


@pytest.mark.slow
@pytest.mark.parametrize("last", [2])
def test_an_interrupted_and_resumed_trial_has_each_epoch_once(here: Path, digits: Path, last: int) -> None:
    """Interrupted after an epoch, before the trial is finished."""

    class Interrupted(TensorBoardListener):
        def epoch(self, number: int, row: Epoch) -> None:
            super().epoch(number, row)
            if row.number == last:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(digits, 2, Interrupted())
    folder = here / "studies" / "s"
    assert [step for step, _ in points(load_run(folder, 0), "loss/loss")] == list(range(1, last + 1))
    search(digits, 2)
    assert matches_record(folder)


def test_a_repeated_epoch_replaces_the_first(tmp_path: Path) -> None:
    """A worker that is killed and restarted sends epochs again to the same driver."""
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
    assert points(load_run(tmp_path, 7), "loss/loss") == [(1, 2.0), (2, 1.0), (3, 1.0)]
    record.close()


def test_missing_tensorboard_raises_an_error_at_the_start(
    here: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard" or "utils.tensorboard" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(AutotuneError) as error:
        search(digits, 1)
    assert "pip install 'autotune-vision[tensorboard]'" in error.value.fix
    assert not (here / "studies").exists()
