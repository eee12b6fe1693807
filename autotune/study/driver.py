"""The driver: runs probes and trials on an engine's workers and records the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

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
    ProbeTrialTask,
    Refused,
    Task,
    TrialTask,
    Unfinished,
)
from autotune.errors import StudyError
from autotune.search.cost_penalty import CostPenalty
from autotune.search.optuna_study import OptunaStudy
from autotune.study.listener import TRIALS, StudyListener
from autotune.study.storage.checkpoints import Checkpoints
from autotune.study.storage.record import Record
from autotune.study.storage.rows import COMPLETE, FAILED, PRUNED, BackboneFacts, TrialRow
from autotune.study.timing.forecast import UnderWay
from autotune.study.timing.limits import TOO_SHORT, TimeLimits
from autotune.study.timing.time_keeper import TimeKeeper
from autotune.training.outcome import TIMEOUT, Epoch, FoldEpoch, ProbeOutcome, TrialOutcome
from autotune.training.params import Params

MOST_FAILURES = 5  # in a row
MOST_STARTS = 3  # of a trial, if its worker dies each time
STATES = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}


class Driver:
    """One run of a study's trials. At the deadline of the limits, every trial is stopped.

    keeper: is told of every finished trial. penalty: makes the value for the sampler from the score of a trial;
    everything else uses the score.
    """

    def __init__(self, search: OptunaStudy, engine: Engine, checkpoints: Checkpoints, record: Record,
                 listener: StudyListener, limits: TimeLimits, keeper: TimeKeeper,
                 penalty: CostPenalty) -> None:  # fmt: skip
        self._search = search
        self._engine = engine
        self._checkpoints = checkpoints
        self._record = record
        self._listener = listener
        self._limits = limits
        self._keeper = keeper
        self._penalty = penalty
        self._interrupted = search.unfinished()  # restarted before new trials are started
        self._running: dict[int, tuple[Trial, Params]] = {}
        self._epochs: dict[int, int] = {}  # finished ones of running trials
        self._progress: Callable[[int], None] = lambda n_finished: None
        self._n_starts: Counter[int] = Counter()

    def run(self, n_trials: int) -> None:
        """Run trials on all workers until n_trials are finished or the deadline has passed.

        If no trial is complete then, the linear probe becomes one. Raises StudyError if five trials in a row have
        failed, or if the study cannot continue.
        """
        self._tell_finished()
        self._listener.earlier(self._record.trials(), self._record.facts().backbones or {})
        show = self._listener.progress(TRIALS)
        self._progress = lambda n_finished: show(n_finished, n_trials)
        self._progress(self._search.n_finished())
        self._keeper.update()
        while True:
            self._give_trials(n_trials)
            if not self._engine.busy and not self._has_next(n_trials):
                break
            self._limits.enforce()
            for place, task, message in self._engine.events(self._limits.seconds):
                assert isinstance(task, TrialTask)
                self._handle(place, task.number, message)
        if self._limits.is_late and self._record.best() is None and self._search.n_finished() < n_trials:
            self._take_probe()

    def _give_trials(self, n_trials: int) -> None:
        for place in self._engine.idle:
            if self._has_next(n_trials):
                self._start(place, self._interrupted.pop(0) if self._interrupted else self._search.ask())

    def _has_next(self, n_trials: int) -> bool:
        if self._limits.is_late:
            return False
        return bool(self._interrupted) or self._search.n_finished() + len(self._running) < n_trials

    def _start(self, place: Place, trial: Trial) -> None:
        params = self._search.params(trial)
        self._running[trial.number] = trial, params
        curve = self._record.curve(trial.number)
        self._epochs[trial.number] = len(curve)
        self._n_starts[trial.number] += 1
        epochs = self._search.epochs(params)
        self._listener.started(trial.number, params, self._backbone(params).describe(params), epochs, curve)
        place.give(TrialTask(trial.number, params), self._checkpoints.needed_by(params), self._limits.left)
        self._keeper.update(self._under_way)

    def _handle(self, place: Place, number: int, message: Message) -> None:
        if isinstance(message, Epoch):
            place.answer(self._stop_reason(number, message))
        elif isinstance(message, CacheProgress):
            self._listener.progress(f"Feature cache for trial {number}")(message.done, message.total)
        elif isinstance(message, Refused):
            raise StudyError(message.problem, message.fix)
        elif isinstance(message, Unfinished):
            self._start_again(number, "stopped at the time limit of the study; the next run continues it")
        elif isinstance(message, Died) and self._must_start_again(number, message):
            when = "the next run continues it" if message.was_killed else "restarting the trial"
            self._start_again(number, f"{message.reason}; {when}")
        else:
            self._finish(number, message)

    def _stop_reason(self, number: int, row: Epoch) -> str | None:
        """Record an epoch and return the reason to stop its trial; None to continue."""
        self._record.keep_epoch(number, row)
        self._listener.epoch(number, row)
        self._epochs[number] = row.number
        self._keeper.follow(self._under_way)
        if self._limits.is_late:
            return TIMEOUT
        return PRUNED if self._search.should_prune(self._running[number][0], row) else None

    def _must_start_again(self, number: int, death: Died) -> bool:
        """Return whether a trial whose worker died is unfinished. One killed at the deadline waits for the next run."""
        return self._limits.is_late if death.was_killed else self._n_starts[number] < MOST_STARTS

    def _start_again(self, number: int, reason: str) -> None:
        """Start a trial without an outcome again, with the same number and seed, in this run or the next one."""
        trial, _ = self._running.pop(number)
        self._listener.say(f"trial {number:3d}  {reason}")
        self._interrupted.insert(0, trial)

    def _take_probe(self) -> None:
        """Make the linear probe the outcome of the first trial that is no recipe, which waits for the next run."""
        trial = self._interrupted.pop(0) if self._interrupted else self._search.ask()
        params = self._search.params(trial)
        if params.is_recipe:
            trial = self._interrupted.pop(0) if self._interrupted else self._search.ask()
            params = self._search.params(trial)
        params = replace(params, hidden=0)  # the probe is linear
        if self._record.facts().backbone(params.backbone).from_scratch:
            self._listener.say(" ".join(TOO_SHORT))
            return
        self._listener.say("The time limit left no time to train a network: the linear probe is taken as it is.")
        self._running[trial.number] = trial, params
        files = self._checkpoints.probe(params)
        task = ProbeTrialTask(trial.number, params)
        for _, outcome in run_tasks(
            self._engine, [task], lambda _: files, self._listener, self._limits.without_deadline()
        ):
            self._finish(trial.number, outcome)

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
        self._progress(self._search.n_finished())
        best = self._record.best()
        self._listener.finished(row, self._backbone(params), is_best=best is not None and best.number == number)
        self._keeper.update(self._under_way)
        if self._record.last_states(MOST_FAILURES) == [FAILED] * MOST_FAILURES:
            raise StudyError(
                f"{MOST_FAILURES} trials in a row have failed, the last with {row.error}.",
                f"Read {self._engine.log(f'trial-{number:04d}')}, then run the same command again to resume.",
            )

    @property
    def _under_way(self) -> list[UnderWay]:
        return [UnderWay(params, self._epochs.get(number, 0)) for number, (_, params) in self._running.items()]

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
) -> Iterator[tuple[ProbeTask, ProbeOutcome | Failed | Unfinished]]:
    """Run probes on all workers, save their heads and yield each outcome. The deadline stops them a little later.

    Raises StudyError if the workers of a probe die: that is no reason to leave out its backbone.
    """
    progress = listener.progress("Linear probes")
    if todo:
        progress(0, len(todo))
    outcomes = run_tasks(engine, todo, lambda _: {}, listener, limits.with_grace())
    for done, (task, outcome) in enumerate(outcomes, start=1):
        assert isinstance(task, ProbeTask)
        progress(done, len(todo))
        if isinstance(outcome, ProbeOutcome):
            checkpoints.keep_probe(task.backbone, task.pixels, outcome.head)
        if isinstance(outcome, Died):
            raise _dead_probe(task, outcome)
        assert isinstance(outcome, (ProbeOutcome, Failed, Unfinished))
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
) -> Iterator[tuple[Task, Outcome | Unfinished | Failed | Died]]:  # fmt: skip
    """Run independent tasks on all workers and yield each outcome. files: what a task needs from the study folder.

    A task whose worker dies is started again, up to MOST_STARTS times. After the deadline, no task is started, and
    running ones stop within a batch; those that are killed or never started are yielded as Unfinished.
    """
    waiting, starts = list(todo), Counter[str]()
    while engine.busy or (waiting and not limits.is_late):
        for place in engine.idle[: 0 if limits.is_late else len(waiting)]:
            task = waiting.pop(0)
            starts[task.name] += 1
            place.give(task, files(task), limits.left)
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
                yield task, Unfinished()
            elif isinstance(message, Died) and not message.was_killed and starts[task.name] < MOST_STARTS:
                waiting.insert(0, task)
            else:
                assert isinstance(message, Outcome | Unfinished | Failed | Died)
                yield task, message
    for task in waiting:
        yield task, Unfinished()


def _error_and_trace(message: Failed | Died) -> tuple[str, str]:
    if isinstance(message, Failed):
        return message.error, message.trace
    return message.reason, message.reason
