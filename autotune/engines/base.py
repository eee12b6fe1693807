"""Protocol between a study's driver and the engine that runs its tasks. Importing it does not import torch.

The driver gives tasks to places and reads events. An engine transports both and replaces dead workers. It does not
access the study's databases, and the protocol does not assume that driver and workers share a folder. A new engine
implements `Engine` and `Place`, calls `serve` in its workers, and is added to study/engines.py and to the contract
test, tests/engines/test_contract.py.
"""

from __future__ import annotations

import contextlib
import errno
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from autotune.errors import StudyError
from autotune.training.outcome import (
    Epoch,
    FoldEpoch,
    FoldOutcome,
    OutOfTimeError,
    ProbeOutcome,
    SoupOutcome,
    TrialOutcome,
)
from autotune.training.params import Params

if TYPE_CHECKING:
    from autotune.training.context import LoadedBackbones, TrialContext


# Tasks, and other messages from the driver.


@dataclass(frozen=True)
class ProbeTask:
    """Fit a linear probe on one backbone's features at one size."""

    backbone: str
    pixels: int

    @property
    def name(self) -> str:
        """Name of the task's log."""
        return f"probe-{self.backbone.replace(':', '-')}-{self.pixels}"


@dataclass(frozen=True)
class TrialTask:
    """Train one trial."""

    number: int
    params: Params

    @property
    def name(self) -> str:
        """Name of the task's log."""
        return f"trial-{self.number:04d}"


@dataclass(frozen=True)
class ProbeTrialTask:
    """Make the linear probe the outcome of a trial, without training it."""

    number: int
    params: Params

    @property
    def name(self) -> str:
        """Name of the task's log."""
        return f"trial-{self.number:04d}"


@dataclass(frozen=True)
class FoldTask:
    """Train a trial again on the pool without one fold, for this many epochs. fold: WHOLE_POOL holds nothing out."""

    number: int
    params: Params
    fold: int
    epochs: int

    @property
    def name(self) -> str:
        """Name of the task's log."""
        return f"final-{self.number:04d}-{'pool' if self.fold < 0 else self.fold}"


@dataclass(frozen=True)
class SoupTask:
    """Average the networks of a trial in the finals: the files of the assignment are their checkpoints."""

    number: int
    params: Params

    @property
    def name(self) -> str:
        """Name of the task's log."""
        return f"final-{self.number:04d}-soup"


Task = ProbeTask | TrialTask | ProbeTrialTask | FoldTask | SoupTask


@dataclass(frozen=True)
class Assignment:
    """A task with the files that it needs from the study folder: content by name.

    seconds: after which it stops within a batch; None: it may take any time.
    """

    task: Task
    files: Mapping[str, bytes]
    seconds: float | None = None


@dataclass(frozen=True)
class Answer:
    """The driver's reply to an Epoch or a FoldEpoch. stop: None to continue, or the reason: PRUNED or TIMEOUT."""

    stop: str | None


@dataclass(frozen=True)
class PixelSet:
    """Decoded pictures in the driver's cache folder, as in `cache.pixels.pixel_rows(pixels, interpolation)`."""

    pixels: int
    interpolation: str
    digests: tuple[str, ...]


# Reports of a worker. An outcome, Unfinished, Failed, Refused and Died end the task.


@dataclass(frozen=True)
class Ready:
    """The worker can take a task."""


@dataclass(frozen=True)
class CacheProgress:
    """Number of pictures of a view in the feature cache."""

    done: int
    total: int


@dataclass(frozen=True)
class Unfinished:
    """The time limit of the task passed before it had a result. Given again, it goes on where it was saved last."""


@dataclass(frozen=True)
class Failed:
    """The task raised an exception. error: the exception in one line; trace: the traceback."""

    error: str
    trace: str


@dataclass(frozen=True)
class Refused:
    """The study cannot continue until the user fixes a problem, such as a full disk."""

    problem: str
    fix: str


@dataclass(frozen=True)
class Died:
    """The worker died. reason: what is known of the cause, e.g. "its process exited with code 1"; if killed, why."""

    reason: str
    was_killed: bool = False


Outcome = TrialOutcome | ProbeOutcome | FoldOutcome | SoupOutcome
Report = Epoch | FoldEpoch | CacheProgress | Outcome | Unfinished | Failed | Refused
Message = Report | Died


class ChannelClosedError(Exception):
    """The other end of a worker's channel is closed: the worker exits."""


# Interfaces that an engine implements.


class Place(ABC):
    """One slot on one device, with at most one task at a time. is_ready: its worker has started."""

    task: Task | None
    is_ready: bool

    @abstractmethod
    def give(self, task: Task, files: Mapping[str, bytes], seconds: float | None = None) -> None:
        """Start a task; the place must be idle. files, seconds: as in `Assignment`."""

    @abstractmethod
    def answer(self, stop: str | None) -> None:
        """Reply to the Epoch or FoldEpoch of this place's task: None to continue, or the reason to stop."""

    @abstractmethod
    def kill(self, reason: str) -> None:
        """End the worker at once, whatever it does. `Engine.events` then yields Died with this reason."""

    @property
    @abstractmethod
    def seconds(self) -> float | None:
        """Seconds since the task was given; None without a task."""


class Engine(ABC):
    """A number of places. Leaving the `with` block ends all workers immediately."""

    @property
    @abstractmethod
    def device(self) -> str:
        """Type of the places' devices: cpu, cuda or mps. It decides what is worth searching."""

    @property
    @abstractmethod
    def n_places(self) -> int: ...

    @property
    @abstractmethod
    def words(self) -> str:
        """Where trials run, in words; empty if it is one worker on this machine."""

    @abstractmethod
    def __enter__(self) -> Self:
        """Start the workers, in parallel with the work of the driver until `configure`."""

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Release what the engine holds, like a connection. Leaving the `with` block does so, too."""

    @abstractmethod
    def configure(self, context: TrialContext) -> None:
        """Send the context to all workers, with the device, threads and memory of each. No place is idle before."""

    @abstractmethod
    def preload(self, pixels: Sequence[PixelSet]) -> None:
        """Copy these decoded pictures to the cache folder of every machine with a place, before its tasks run."""

    @property
    @abstractmethod
    def places(self) -> Sequence[Place]: ...

    @property
    def idle(self) -> Sequence[Place]:
        """Places that can take a task."""
        return [place for place in self.places if place.is_ready and not place.task]

    @property
    def starting(self) -> Sequence[Place]:
        """Places with a worker that is not ready yet: at the start, and after the replacement of a dead one."""
        return [place for place in self.places if not place.is_ready]

    @property
    def working(self) -> Sequence[Place]:
        """Places with a task."""
        return [place for place in self.places if place.task]

    @property
    def busy(self) -> bool:
        """Whether any place has a task."""
        return bool(self.working)

    @abstractmethod
    def events(self, seconds: float | None = None) -> Iterator[tuple[Place, Task, Message]]:
        """Wait until a task reports something or a starting place becomes idle, and yield the reports.

        seconds: to wait at most. May yield nothing. Call it only while a place is busy or starting. After Died, a new
        place replaces the dead one. Raises StudyError if workers die repeatedly during their start.
        """

    @abstractmethod
    def log(self, name: str) -> Path:
        """Return the file with the output of the task with this name."""


MOST_FAILED_STARTS = 3  # in a row
START_LOG = "worker"  # name of the log of a worker that fails before its first task


class FailedStarts:
    """Counts the workers that die during their start, in a row. log: of their output, if there is any."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._n = 0

    def reset(self) -> None:
        """A worker has started."""
        self._n = 0

    def add(self, death: Died) -> None:
        """Raise StudyError if this was the last attempt."""
        self._n += 1
        if self._n == MOST_FAILED_STARTS:
            raise StudyError(
                f"{MOST_FAILED_STARTS} workers in a row died during their start. The last one: {death.reason}.",
                f"Run the same command again. If it fails again, see {self._log}, if it exists.",
            )


# Main loop of a worker.

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

Receive = Callable[[], Assignment | Answer]
Send = Callable[[Ready | Report], None]


def serve(context: TrialContext, receive: Receive, send: Send, scratch: Path) -> None:
    """Run tasks in sequence until the channel closes. This is the main loop of a worker.

    receive, send: the worker's end of its channel; both raise ChannelClosedError once the driver's end is closed.
    scratch: a folder that outlives the worker, for the checkpoints of unfinished trials.
    """
    worker = _Worker(context, receive, send, scratch)
    try:
        send(Ready())
        while True:
            assignment = receive()
            assert isinstance(assignment, Assignment)
            send(worker.outcome(assignment))
    except ChannelClosedError:
        return


class _Worker:
    """Runs a worker's tasks and, as their Reporter, sends their reports to the driver."""

    def __init__(self, context: TrialContext, receive: Receive, send: Send, scratch: Path) -> None:
        self._context = context
        self._receive = receive
        self._send = send
        self._scratch = scratch
        self._backbones: LoadedBackbones | None = None
        self._deadline: float | None = None  # of the task, on time.monotonic's clock

    def outcome(self, assignment: Assignment) -> Outcome | Unfinished | Failed | Refused:
        self._deadline = None if assignment.seconds is None else time.monotonic() + assignment.seconds
        try:
            return self._run(assignment.task, assignment.files)
        except ChannelClosedError:
            raise
        except OutOfTimeError:
            return Unfinished()
        except StudyError as error:
            return Refused(error.problem, error.fix)
        except OSError as error:
            return _refused_by_the_disk(error, self._scratch) or _failed(error)
        except RuntimeError as error:
            failure = _failed(error)
            if "CUDA error" in str(error):  # the device cannot be used by this process any more
                raise SystemExit(1) from None
            return failure
        except Exception as error:  # any exception of a plugin or a trial fails the task, not the study
            return _failed(error)

    def epoch(self, row: Epoch | FoldEpoch) -> str | None:
        self._send(row)
        answer = self._receive()
        assert isinstance(answer, Answer)
        return answer.stop

    def cache_progress(self, done: int, total: int) -> None:
        self._send(CacheProgress(done, total))
        self.check_time()

    def check_time(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise OutOfTimeError

    def _run(self, task: Task, files: Mapping[str, bytes]) -> Outcome:
        from autotune.training.fold import run_fold, run_soup
        from autotune.training.trial import run_probe, run_trial, take_probe

        backbones = self._loaded()
        if isinstance(task, ProbeTask):
            return run_probe(backbones, task.backbone, task.pixels, self)
        if isinstance(task, TrialTask):
            return run_trial(backbones, task.number, task.params, files, self._scratch, self)
        if isinstance(task, ProbeTrialTask):
            return take_probe(backbones, task.number, task.params, files)
        if isinstance(task, SoupTask):
            return run_soup(backbones, task.params, [files[name] for name in sorted(files)], self)
        return run_fold(backbones, task.number, task.params, task.fold, task.epochs, files, self._scratch, self)

    def _loaded(self) -> LoadedBackbones:
        """Load the backbones in the first task, so that an exception fails that task."""
        import torch

        from autotune.training.context import LoadedBackbones

        if self._backbones is None:
            torch.set_num_threads(self._context.threads)
            torch.set_flush_denormal(True)  # denormal weights make a trial three times as slow
            self._backbones = LoadedBackbones(self._context)
        return self._backbones


def _failed(error: Exception) -> Failed:
    trace = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError):  # the disk of the log may be full
        print(trace, file=sys.stderr, flush=True)
    return Failed(f"{type(error).__name__}: {error}", trace)


def _refused_by_the_disk(error: OSError, scratch: Path) -> Refused | None:
    """Return a refusal if a disk is full or read-only: no fault of the trial, which is trained again later."""
    if error.errno not in DISK_ERRORS:
        return None
    return Refused(
        f"{error.filename or scratch} cannot be written: {error.strerror}.",
        "Free some disk space, then run the same command again to resume.",
    )
