"""Track a study: pass what happens to a tracker's process. The search never waits for it, except at its end."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import queue
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from autotune.engines.local import hidden_main, ignored_ctrl_c
from autotune.errors import AutotuneError
from autotune.extras import require_extra
from autotune.files import write_whole
from autotune.study.listener import Listeners, Outline, StudyListener
from autotune.study.request import Resources, SearchRequest
from autotune.study.storage.record import open_record
from autotune.trackers import process
from autotune.trackers.base import (
    EpochEnded,
    Event,
    StudyBegun,
    StudyEnded,
    TrialBegun,
    TrialEnded,
    find_tracker,
)
from autotune.training.params import Params, Value

if TYPE_CHECKING:
    from autotune.study.storage.record import Record
    from autotune.study.storage.rows import BackboneFacts, TrialRow
    from autotune.study.summary import Summary
    from autotune.training.outcome import Epoch

STATE, LOG = "tracking.json", "tracking.log"  # in the study's folder
END_SECONDS, INTERRUPTED_SECONDS = 120.0, 10.0  # to send what is left


@dataclass(frozen=True)
class _State:
    """The content of STATE. id: of the study. sent: numbers of the trials that each tracker has confirmed, by
    its destination.
    """

    id: str
    sent: dict[str, list[int]]

    @classmethod
    def read(cls, folder: Path) -> _State:
        try:
            return cls(**json.loads((folder / STATE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # none yet, or damaged: all is sent again
            return cls(uuid.uuid4().hex, {})

    def write(self, folder: Path) -> None:
        write_whole(folder / STATE, json.dumps({"id": self.id, "sent": self.sent}))


class TrackingListener(StudyListener):
    """Sends a study to the tracker of that name. A context manager: leaving it ends the study for the tracker.

    listener: is told once if the tracker fails; the study then goes on without it. Raises AutotuneError for an unknown
    tracker, or one that is not installed.
    """

    _folder: Path
    _metric: str

    def __init__(self, name: str, listener: StudyListener) -> None:
        self._entry, self._listener = find_tracker(name), listener
        require_extra(self._entry.package, self._entry.name)
        self._unsent: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._own, self._its = multiprocessing.Pipe()
        self._process: Any = None
        self._has_failed = False
        self._last_epochs: dict[int, int] = {}  # of the trials that have begun
        self._ended: list[int] = []
        self._last = StudyEnded(is_complete=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        try:
            self._send(self._last)
            self._finish(INTERRUPTED_SECONDS if kind else END_SECONDS)
        finally:  # also after Ctrl-C
            if self._process.is_alive():
                self._process.kill()

    def opened(self, folder: Path, metric: str, record: Record) -> None:
        self._folder, self._metric = folder, metric
        self._state = _State.read(folder)

    def planned(self, outline: Outline) -> None:
        self._begin({"metric": outline.metric, "epochs": outline.epochs, "gap": outline.gap, "device": outline.device})

    def started(self, number: int, params: Params, words: str, epochs: int, curve: Sequence[Epoch] = ()) -> None:
        self._begin_trial(number, params, curve)

    def epoch(self, number: int, row: Epoch) -> None:
        self._send_epoch(number, row)

    def finished(self, row: TrialRow, backbone: BackboneFacts, is_best: bool) -> None:
        self._end_trial(row)

    def end(self, summary: Summary, resources: Resources) -> None:
        """Send the scores, the report and the bundle of a finished search. The bundle is exported unless it exists."""
        self._begin({"metric": summary.metric})
        values = (
            {f"test/{self._metric}": summary.test.value, "test/accuracy": summary.test.accuracy} if summary.test else {}
        )
        if summary.best:
            values |= {f"best/{self._metric}": summary.best.value or 0.0}
        words = {"winner": summary.describe(summary.winner)} if summary.best else {}
        report, bundle = self._report(), self._bundle(resources) if summary.best else None
        self._last = StudyEnded(True, {**values, "trials": summary.n_trials["total"]}, words, report, bundle)
        self._listener.working(f"Sending to {self._entry.label}")

    def _report(self) -> Path | None:
        from autotune.report.report import write_report

        with self._said_if_impossible("report"):
            return Path(write_report(str(self._folder))["file"])
        return None

    def _bundle(self, resources: Resources) -> Path | None:
        """Return the bundle of the final model. It is exported unless it exists."""
        from autotune.export.bundle import is_unchanged
        from autotune.export.export import ExportRequest, export_trial

        with open_record(self._folder) as record:
            known = record.bundle()
        if known and is_unchanged(Path(known.folder), self._folder.name):
            return Path(known.folder)
        with self._said_if_impossible("bundle"):
            return export_trial(str(self._folder), ExportRequest(), resources, self._listener).folder
        return None

    @contextlib.contextmanager
    def _said_if_impossible(self, what: str) -> Any:
        try:
            yield
        except AutotuneError as error:
            self._listener.say(f"{self._entry.label} gets no {what}: {error.problem}")

    def _begin(self, settings: dict[str, Value]) -> None:
        """Start the process, and send what it has not confirmed yet."""
        if self._process:
            return
        self._state.write(self._folder)
        spawning = multiprocessing.get_context("spawn")  # not forked: trackers start threads and processes
        arguments = (self._entry.name, self._its, self._folder / LOG)
        self._process = spawning.Process(target=process.run, args=arguments, daemon=False)
        with ignored_ctrl_c(), hidden_main():
            self._process.start()
        self._its.close()
        threading.Thread(target=self._pass_on, daemon=True).start()
        self._send(StudyBegun(self._state.id, self._folder.name, self._folder.resolve(), settings))
        sent = self._state.sent.get(self._entry.destination, [])
        with open_record(self._folder) as record:  # after a search, that of the listener is closed
            for row in sorted(record.trials(), key=lambda row: row.number):
                if row.number not in sent:
                    self._begin_trial(row.number, row.params, record.curve(row.number))
                    self._end_trial(row)

    def _begin_trial(self, number: int, params: Params, curve: Sequence[Epoch]) -> None:
        """Begin a trial, unless it is running: then its worker has been replaced."""
        if number not in self._last_epochs:
            self._last_epochs[number] = 0
            self._send(TrialBegun(number, params.flat()))
        for row in curve:
            self._send_epoch(number, row)

    def _send_epoch(self, number: int, row: Epoch) -> None:
        """Send an epoch, unless it was sent: a trial that is restarted repeats its epochs."""
        if row.number > self._last_epochs[number]:
            self._last_epochs[number] = row.number
            self._send(self._epoch(number, row))

    def _epoch(self, number: int, row: Epoch) -> EpochEnded:
        values = {
            f"{self._metric}/train": row.train,
            f"{self._metric}/validation": row.validation,
            f"{self._metric}/gap": row.gap,
            "loss": row.loss,
            "log_loss": row.log_loss,
            "learning_rate": row.rate,
        }
        return EpochEnded(number, row.number, values)

    def _end_trial(self, row: TrialRow) -> None:
        self._begin_trial(row.number, row.params, ())
        scores = {f"best/{self._metric}": row.value, "best/log_loss": row.log_loss, "seconds": row.seconds}
        known = {name: value for name, value in scores.items() if value is not None}
        self._send(TrialEnded(row.number, row.state, row.ended, known))
        self._last_epochs.pop(row.number)
        self._ended.append(row.number)

    def _send(self, event: Event) -> None:
        if not self._has_failed and self._own.poll():
            self._fail(self._answer())
        if not self._has_failed:
            self._unsent.put(event)

    def _pass_on(self) -> None:
        """Write events to the process, which may read them slowly: in a thread of its own."""
        with contextlib.suppress(OSError):  # the process has ended
            while True:
                event = self._unsent.get()
                self._own.send(event)
                if isinstance(event, StudyEnded):
                    return

    def _answer(self) -> str:
        try:
            return str(self._own.recv())
        except (EOFError, OSError):
            return "its process has ended"

    def _fail(self, reason: str) -> None:
        self._has_failed = True
        log = self._folder / LOG
        self._listener.say(f"{self._entry.label} gets nothing more: {reason}. The study goes on without it; see {log}.")

    def _finish(self, seconds: float) -> None:
        """Wait until the process has sent everything, and say if it has not."""
        if not self._has_failed:
            if not self._own.poll(seconds):
                self._fail(f"it has not confirmed within {seconds:.0f} s")
            elif answer := self._answer():
                self._fail(answer)
        if not self._has_failed:
            sent = {*self._state.sent.get(self._entry.destination, []), *self._ended}
            _State(self._state.id, {**self._state.sent, self._entry.destination: sorted(sent)}).write(self._folder)
            if self._last.is_complete:
                self._listener.say(f"Tracked with {self._entry.label}: {self._entry.where}")
            self._process.join(seconds)


def run_tracked(request: SearchRequest, track: str | None, *listeners: StudyListener) -> Summary:
    """Run a study as `run_study` does, and send it to a tracker. track: its name; None: without one."""
    from autotune.study.run import run_study

    first, *_ = listeners
    if track is None:
        return run_study(request, Listeners(*listeners))
    with TrackingListener(track, first) as tracking:
        found = run_study(request, Listeners(*listeners, tracking))
        tracking.end(found, Resources(request.device, request.weights, request.plugins))
    first.close()
    return found
