"""The driver: gives workers probes and trials, hears what they say, and writes it down."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from optuna.trial import Trial, TrialState

from autotune.engines.base import CacheProgress, Died, Failed, ProbeTask, TrialTask
from autotune.engines.local import LocalEngine, LocalPlace
from autotune.errors import StudyError
from autotune.search.optuna_study import OptunaStudy
from autotune.study.listener import TRIALS, StudyListener
from autotune.study.record import COMPLETE, FAILED, PRUNED, Record
from autotune.training.outcome import TIMEOUT, Epoch, ProbeOutcome, TrialOutcome
from autotune.training.params import Params, describe

MOST_FAILURES = 5  # in a row
MOST_STARTS = 3  # of a trial whose worker dies each time
STATES = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}


class Driver:
    """One run of a study's trials. deadline: on time.monotonic's clock, after which no trial goes on."""

    def __init__(self, search: OptunaStudy, workers: LocalEngine, record: Record, listener: StudyListener,
                 deadline: float | None) -> None:  # fmt: skip
        self._search = search
        self._workers = workers
        self._record = record
        self._listener = listener
        self._deadline = deadline
        self._queue = search.unfinished()
        self._running: dict[int, tuple[Trial, Params]] = {}
        self._starts: Counter[int] = Counter()

    def run(self, n_trials: int) -> None:
        """Give every idle worker a trial and hear what they say, until n_trials are finished or time is up.

        Raises StudyError where five trials in a row have failed.
        """
        self._catch_up()
        self._listener.earlier(self._record.trials(), self._record.fact("arms"))
        trials = self._listener.progress(TRIALS)
        trials(self._search.n_finished(), n_trials)
        while True:
            for worker in self._workers.idle:
                if trial := self._next(n_trials):
                    self._start(worker, trial)
            if not self._workers.busy:
                return
            for worker, task, news in self._workers.events():
                assert isinstance(task, TrialTask)
                if isinstance(news, Epoch):
                    worker.answer(self._verdict(task.number, news))
                elif isinstance(news, CacheProgress):
                    self._listener.progress("Bank")(news.done, news.total)
                elif isinstance(news, Died) and self._starts[task.number] < MOST_STARTS:
                    self._put_back(task.number, news)
                else:
                    self._finish(task.number, news)
                    trials(self._search.n_finished(), n_trials)

    @property
    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _next(self, n_trials: int) -> Trial | None:
        if self._is_late:
            return None
        if self._queue:
            return self._queue.pop(0)
        if self._search.n_finished() + len(self._running) >= n_trials:
            return None
        return self._search.ask()

    def _start(self, worker: LocalPlace, trial: Trial) -> None:
        params = self._search.params(trial)
        self._running[trial.number] = trial, params
        self._starts[trial.number] += 1
        self._listener.started(trial.number, describe(params.recorded(), self._arm(params)))
        worker.give(TrialTask(trial.number, params, str(self._workers.log(f"trial-{trial.number:04d}"))))

    def _verdict(self, number: int, row: Epoch) -> str | None:
        """Keep an epoch's row and say whether the trial goes on: None, or why it stops."""
        self._record.keep_epoch(number, row)
        self._listener.epoch(number, row)
        if self._is_late:
            return TIMEOUT
        return PRUNED if self._search.should_prune(self._running[number][0], row) else None

    def _put_back(self, number: int, news: Died) -> None:
        """A killed trial is queued again, under the same number and with the same seed."""
        trial, _ = self._running.pop(number)
        self._listener.say(f"trial {number:3d}  its process ended (exit code {news.exit_code}); it starts again")
        self._queue.insert(0, trial)

    def _finish(self, number: int, news: TrialOutcome | ProbeOutcome | Failed | Died) -> None:
        """The record is written first: `_catch_up` tells Optuna what this process, killed here, would not."""
        trial, params = self._running.pop(number)
        if isinstance(news, TrialOutcome):
            self._record.keep_outcome(number, params, news)
        else:
            error, trace = _failure(news)
            self._record.keep_failure(number, params, error, trace)
        row = self._record.trial(number)
        self._tell(trial, row)
        best = self._record.best()
        self._listener.finished(row, self._arm(params), is_best=best is not None and best["number"] == number)
        if self._record.last_states(MOST_FAILURES) == [FAILED] * MOST_FAILURES:
            raise StudyError(
                f"{MOST_FAILURES} trials in a row have failed, the last by {row['error']}.",
                f"Read {self._workers.log(f'trial-{number:04d}')}; the same command goes on.",
            )

    def _arm(self, params: Params) -> dict[str, Any]:
        arm: dict[str, Any] = self._record.fact("arms")[params.backbone]
        return arm

    def _catch_up(self) -> None:
        """Tell Optuna of trials that the record has as finished and a killed driver did not get to tell."""
        for trial in list(self._queue):
            if row := self._record.trial(trial.number):
                self._tell(trial, row)
                self._queue.remove(trial)

    def _tell(self, trial: Trial, row: dict[str, Any]) -> None:
        self._search.tell(trial, row["value"], STATES[row["state"]])


def run_probes(
    workers: LocalEngine, todo: Sequence[ProbeTask], listener: StudyListener
) -> Iterator[tuple[ProbeTask, ProbeOutcome | Failed]]:
    """Run probes on all workers and hand out what comes of each. One whose worker dies has failed."""
    waiting = list(todo)
    while waiting or workers.busy:
        for worker in workers.idle[: len(waiting)]:
            worker.give(waiting.pop(0))
        for _, task, news in workers.events():
            assert isinstance(task, ProbeTask)
            if isinstance(news, CacheProgress):
                listener.progress(f"Bank of {task.backbone}")(news.done, news.total)
            elif isinstance(news, Died):
                yield task, Failed(*_failure(news))
            elif isinstance(news, (ProbeOutcome, Failed)):
                yield task, news


def _failure(news: object) -> tuple[str, str]:
    """What failed in a line, and all that is known of it."""
    if isinstance(news, Failed):
        return news.error, news.trace
    assert isinstance(news, Died)
    killed = ", killed as by a machine out of memory" if news.exit_code == -9 else ""
    error = f"its process ended (exit code {news.exit_code}{killed})"
    return error, error
