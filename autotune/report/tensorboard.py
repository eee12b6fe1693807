"""TensorBoard logs: one run per trial, copied from the study record."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.errors import AutotuneError
from autotune.study.listener import StudyListener
from autotune.study.storage.record import Record
from autotune.study.storage.rows import FAILED, BackboneFacts, TrialRow

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from autotune.training.outcome import Epoch


def how_to_open(folder: str | Path) -> str:
    return f"TensorBoard: tensorboard --logdir {shlex.quote(str(Path(folder) / 'tensorboard'))}"


class TensorBoardListener(StudyListener):
    """Write every epoch and every finished trial for TensorBoard, after they are stored in the record.

    Trials that are already in the record are rewritten when the study is opened, so no run is missing and no point is
    written twice. Raises AutotuneError if TensorBoard is not installed.
    """

    _folder: Path
    _metric: str
    _record: Record

    def __init__(self) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise AutotuneError(
                "TensorBoard is not installed.", "Install it with `pip install 'autotune-vision[tensorboard]'`."
            ) from error
        self._writers: dict[int, tuple[SummaryWriter, int]] = {}  # with the last epoch written

    def opened(self, folder: Path, metric: str, record: Record) -> None:
        self._folder, self._metric, self._record = folder / "tensorboard", metric, record
        for row in record.trials():
            self._finish(row)

    def epoch(self, number: int, row: Epoch) -> None:
        """Write an epoch. If it does not follow the last one, the trial was restarted or resumed: rewrite its run."""
        writer, last = self._writers.get(number, (None, 0))
        if writer is None or row.number != last + 1:
            writer = self._new_run(number, row.number - 1)
        self._write(number, writer, row)

    def finished(self, row: TrialRow, backbone: BackboneFacts, is_best: bool) -> None:
        self._finish(row)

    def _finish(self, row: TrialRow) -> None:
        """Write a finished trial's hyperparameters and scores."""
        number = row.number
        writer = self._writers[number][0] if number in self._writers else self._new_run(number, row.epochs)
        if row.state != FAILED:
            scores = {f"hparam/{self._metric}": row.value, "hparam/log_loss": row.log_loss}
            writer.add_hparams(row.params.flat(), scores, run_name=".")
        writer.close()
        self._writers.pop(number, None)

    def _new_run(self, trial: int, epochs: int | None) -> SummaryWriter:
        """Start a trial's run, with its first recorded epochs. epochs: how many of them; None: all."""
        from torch.utils.tensorboard import SummaryWriter

        if trial in self._writers:
            self._writers[trial][0].close()
        folder = self._folder / f"trial-{trial:04d}"
        shutil.rmtree(folder, ignore_errors=True)  # on Windows, files that TensorBoard has open remain;
        writer = SummaryWriter(str(folder), purge_step=0)  # purge_step makes it discard their contents
        self._writers[trial] = writer, 0
        for row in self._record.curve(trial)[:epochs]:
            self._write(trial, writer, row)
        return writer

    def _write(self, trial: int, writer: SummaryWriter, row: Epoch) -> None:
        shown = {
            f"{self._metric}/train": row.train,
            f"{self._metric}/validation": row.validation,
            f"{self._metric}/gap": row.gap,
            "loss/loss": row.loss,
            "loss/log_loss": row.log_loss,
            "learning_rate": row.rate,
        }
        for name, value in shown.items():
            writer.add_scalar(name, value, row.number)
        writer.flush()  # for live viewing, and in case of kill -9
        self._writers[trial] = writer, row.number
