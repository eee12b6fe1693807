"""The driver: runs probes and trials on an engine's workers and records the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from optuna.trial import Trial, TrialState

from autotune.engines.base import (
    CacheProgress,
    Died,
    Engine,
    Failed,
    Message,
    Outcome,
    Place,
    ProbeTask,
    Refused,
    Task,
    TrialTask,
)
from autotune.errors import StudyError
from autotune.search.cost_penalty import CostPenalty
from autotune.search.optuna_study import OptunaStudy
from autotune.study.checkpoints import Checkpoints
from autotune.study.limits import TimeLimits
from autotune.study.listener import TRIALS, StudyListener
from autotune.study.record import Record
from autotune.study.rows import COMPLETE, FAILED, PRUNED, BackboneFacts, TrialRow
from autotune.training.outcome import TIMEOUT, Epoch, FoldEpoch, ProbeOutcome, TrialOutcome
from autotune.training.params import Params

MOST_FAILURES = 5  # in a row
MOST_STARTS = 3  # of a trial, if its worker dies each time
STATES = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}


class Driver:
    """One run of a study's trials. After the deadline of the limits, every trial is stopped.

    penalty: makes the value for the sampler from the score of a trial; everything else uses the score.
    """

    def __init__(self, search: OptunaStudy, engine: Engine, checkpoints: Checkpoints, record: Record,
                 listener: StudyListener, limits: TimeLimits, penalty: CostPenalty) -> None:  # fmt: skip
        self._search = search
        self._engine = engine
        self._checkpoints = checkpoints
        self._record = record
        self._listener = listener
        self._limits = limits
        self._penalty = penalty
        self._interrupted = search.unfinished()  # restarted before new trials are started
        self._running: dict[int, tuple[Trial, Params]] = {}
        self._n_starts: Counter[int] = Counter()
        self._started_late = False

    def run(self, n_trials: int) -> None:
        """Run trials on all workers until n_trials are finished or the deadline has passed.

        Raises StudyError if five trials in a row have failed, or if the study cannot continue.
        """
        self._started_late = self._limits.is_late
        self._tell_finished()
        self._listener.earlier(self._record.trials(), self._record.facts().backbones or {})
        progress = self._listener.progress(TRIALS)
        progress(self._search.n_finished(), n_trials)
        while True:
            self._give_trials(n_trials)
            if not self._engine.busy and not self._has_next(n_trials):
                return
            self._limits.enforce()
            for place, task, message in self._engine.events(self._limits.seconds):
                assert isinstance(task, TrialTask)
                self._handle(place, task.number, message)
                if task.number not in self._running:
                    progress(self._search.n_finished(), n_trials)

    def _give_trials(self, n_trials: int) -> None:
        for place in self._engine.idle:
            if self._has_next(n_trials):
                self._start(place, self._interrupted.pop(0) if self._interrupted else self._search.ask())

    def _has_next(self, n_trials: int) -> bool:
        """Return whether to start another trial.

        A run that starts before the deadline starts at least one trial, even if its workers are ready only after it.
        """
        if self._limits.is_late and (self._n_starts or self._started_late):
            return False
        return bool(self._interrupted) or self._search.n_finished() + len(self._running) < n_trials

    def _start(self, place: Place, trial: Trial) -> None:
        params = self._search.params(trial)
        self._running[trial.number] = trial, params
        self._n_starts[trial.number] += 1
        self._listener.started(trial.number, self._backbone(params).describe(params))
        place.give(TrialTask(trial.number, params), self._checkpoints.needed_by(params))

    def _handle(self, place: Place, number: int, message: Message) -> None:
        if isinstance(message, Epoch):
            place.answer(self._stop_reason(number, message))
        elif isinstance(message, CacheProgress):
            self._listener.progress("Feature cache")(message.done, message.total)
        elif isinstance(message, Refused):
            raise StudyError(message.problem, message.fix)
        elif isinstance(message, Died) and self._must_start_again(number, message):
            self._start_again(number, message)
        else:
            self._finish(number, message)

    def _stop_reason(self, number: int, row: Epoch) -> str | None:
        """Record an epoch and return the reason to stop its trial; None to continue."""
        self._record.keep_epoch(number, row)
        self._listener.epoch(number, row)
        if self._limits.is_late:
            return TIMEOUT
        return PRUNED if self._search.should_prune(self._running[number][0], row) else None

    def _must_start_again(self, number: int, death: Died) -> bool:
        """Return whether a trial whose worker died is unfinished. One killed at the deadline waits for the next run."""
        return self._limits.is_late if death.was_killed else self._n_starts[number] < MOST_STARTS

    def _start_again(self, number: int, death: Died) -> None:
        """Restart a trial whose worker died, with the same number and seed."""
        trial, _ = self._running.pop(number)
        when = "the next run continues it" if death.was_killed else "restarting the trial"
        self._listener.say(f"trial {number:3d}  {death.reason}; {when}")
        self._interrupted.insert(0, trial)

    def _finish(self, number: int, message: Message) -> None:
        """Record a trial, then report it to Optuna. `_tell_finished` catches up if the driver is killed between."""
        trial, params = self._running.pop(number)
        if isinstance(message, TrialOutcome):
            content = message.checkpoint
            file = None if content is None else self._checkpoints.keep_trial(number, content)
            self._record.keep_outcome(number, params, message, file)
        else:
            assert isinstance(message, (Failed, Died))
            self._record.keep_failure(number, params, *_error_and_trace(message))
        row = self._record.trial(number)
        assert row
        self._tell(trial, row)
        best = self._record.best()
        self._listener.finished(row, self._backbone(params), is_best=best is not None and best.number == number)
        if self._record.last_states(MOST_FAILURES) == [FAILED] * MOST_FAILURES:
            raise StudyError(
                f"{MOST_FAILURES} trials in a row have failed, the last with {row.error}.",
                f"Read {self._engine.log(f'trial-{number:04d}')}, then run the same command again to resume.",
            )

    def _backbone(self, params: Params) -> BackboneFacts:
        return self._record.facts().backbone(params.backbone)

    def _tell_finished(self) -> None:
        """Report to Optuna the trials that were recorded but not reported before the driver was killed."""
        for trial in list(self._interrupted):
            if row := self._record.trial(trial.number):
                self._tell(trial, row)
                self._interrupted.remove(trial)

    def _tell(self, trial: Trial, row: TrialRow) -> None:
        is_complete = row.state == COMPLETE and row.value is not None
        value = self._penalty.applied(row.value or 0.0, row.params) if is_complete else None
        self._search.tell(trial, value, STATES[row.state])


def run_probes(
    engine: Engine, todo: Sequence[ProbeTask], checkpoints: Checkpoints, listener: StudyListener, limits: TimeLimits
) -> Iterator[tuple[ProbeTask, ProbeOutcome | Failed]]:
    """Run probes on all workers, save their heads and yield each outcome.

    Raises StudyError if the workers of a probe die: that is no reason to leave out its backbone.
    """
    for task, outcome in run_tasks(engine, todo, lambda _: {}, listener, limits.for_probes()):
        assert isinstance(task, ProbeTask)
        if isinstance(outcome, ProbeOutcome):
            checkpoints.keep_probe(task.backbone, task.pixels, outcome.head)
        if isinstance(outcome, Died):
            raise _dead_probe(task, outcome)
        assert isinstance(outcome, (ProbeOutcome, Failed))
        yield task, outcome


def _dead_probe(task: ProbeTask, death: Died) -> StudyError:
    if death.was_killed:
        return StudyError(
            f"The probe of {task.backbone} was stopped: {death.reason}.",
            "Allow more time, or leave the backbone out: --backbone OTHERS",
        )
    return StudyError(
        f"{MOST_STARTS} workers died in the probe of {task.backbone}. The last one: {death.reason}.",
        "Free some memory and run the same command again, or leave the backbone out: --backbone OTHERS",
    )


def run_tasks(
    engine: Engine, todo: Sequence[Task], files: Callable[[Task], Mapping[str, bytes]], listener: StudyListener,
    limits: TimeLimits,
) -> Iterator[tuple[Task, Outcome | Failed | Died]]:  # fmt: skip
    """Run independent tasks on all workers and yield each outcome. files: what a task needs from the study folder.

    A task whose worker dies is started again, up to MOST_STARTS times. After the deadline, no task is started, and
    running ones stop at the end of their epoch; one that is killed has no outcome.
    """
    waiting, starts = list(todo), Counter[str]()
    while engine.busy or (waiting and not limits.is_late):
        for place in engine.idle[: 0 if limits.is_late else len(waiting)]:
            task = waiting.pop(0)
            starts[task.name] += 1
            place.give(task, files(task))
        limits.enforce()
        for place, task, message in engine.events(limits.seconds):
            if isinstance(message, FoldEpoch):
                place.answer(TIMEOUT if limits.is_late else None)
            elif isinstance(message, CacheProgress):
                of = f" of {task.backbone}" if isinstance(task, ProbeTask) else ""
                listener.progress(f"Feature cache{of}")(message.done, message.total)
            elif isinstance(message, Refused):
                raise StudyError(message.problem, message.fix)
            elif isinstance(message, Died) and message.was_killed and limits.is_late:
                listener.say(f"{task.name} was stopped: {message.reason}")
            elif isinstance(message, Died) and not message.was_killed and starts[task.name] < MOST_STARTS:
                waiting.insert(0, task)
            else:
                assert isinstance(message, Outcome | Failed | Died)
                yield task, message


def _error_and_trace(message: Failed | Died) -> tuple[str, str]:
    if isinstance(message, Failed):
        return message.error, message.trace
    return message.reason, message.reason
