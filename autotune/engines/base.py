"""The protocol between a study's driver and the engine that runs its tasks. Importing it does not import torch.

The driver gives tasks to places and reads events. An engine moves both and restarts what dies; it never sees the
study's databases, and nothing here assumes that driver and worker share a folder. A new engine implements `Engine` and
`Place`, calls `serve` in its workers, and is added to the contract test (tests/engines/test_contract.py).
"""

from __future__ import annotations

import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from autotune.errors import StudyError
from autotune.training.outcome import Epoch, ProbeOutcome, TrialOutcome
from autotune.training.params import Params

if TYPE_CHECKING:
    from autotune.training.context import LoadedBackbones, TrialContext


# Tasks, and what the driver sends with them.


@dataclass(frozen=True)
class ProbeTask:
    """Fit a linear probe on one backbone's features at one size."""

    backbone: str
    pixels: int

    @property
    def name(self) -> str:
        """What the task's log is called."""
        return f"probe-{self.backbone.replace(':', '-')}-{self.pixels}"


@dataclass(frozen=True)
class TrialTask:
    """Train one trial."""

    number: int
    params: Params

    @property
    def name(self) -> str:
        """What the task's log is called."""
        return f"trial-{self.number:04d}"


Task = ProbeTask | TrialTask


@dataclass(frozen=True)
class Assignment:
    """A task with what it needs of the study's folder: the content of files, by name."""

    task: Task
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Answer:
    """The driver's reply to an Epoch. stop: None to go on, or why to stop: PRUNED or TIMEOUT."""

    stop: str | None


@dataclass(frozen=True)
class PixelSet:
    """Decoded pictures in the driver's cache folder: those of `cache.pixels.pixel_rows(pixels, interpolation)`."""

    pixels: int
    interpolation: str
    digests: tuple[str, ...]


# What a worker reports. An outcome, Failed, Refused and Died end the task.


@dataclass(frozen=True)
class Ready:
    """The worker can take a task."""


@dataclass(frozen=True)
class CacheProgress:
    """How many of a view's pictures are in the feature cache."""

    done: int
    total: int


@dataclass(frozen=True)
class Failed:
    """The task raised. error: the exception in a line; trace: the whole traceback."""

    error: str
    trace: str


@dataclass(frozen=True)
class Refused:
    """The study cannot go on until its user fixes something, such as a full disk."""

    problem: str
    fix: str


@dataclass(frozen=True)
class Died:
    """The worker is gone. reason: how, as far as is known: "its process ended (exit code 1)"."""

    reason: str


Report = Epoch | CacheProgress | TrialOutcome | ProbeOutcome | Failed | Refused
Message = Report | Died


class ChannelClosedError(Exception):
    """The other end of a worker's channel is closed: there is nothing more to do."""


# What an engine implements.


class Place(ABC):
    """One slot on one device, with at most one task at a time."""

    @abstractmethod
    def give(self, task: Task, files: Mapping[str, bytes]) -> None:
        """Start a task here; the place is idle. files: what the task needs of the study's folder, by name."""

    @abstractmethod
    def answer(self, stop: str | None) -> None:
        """Answer the Epoch that this place's task waits on: None to go on, or why to stop."""


class Engine(ABC):
    """Some places for tasks. Leaving the `with` block leaves no worker behind; after an exception, at once."""

    @abstractmethod
    def __enter__(self) -> Self:
        """Begin to start the workers; their start overlaps with what the driver does until `configure`."""

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...

    @abstractmethod
    def configure(self, context: TrialContext) -> None:
        """Send all workers what their tasks share; no place is idle before."""

    @abstractmethod
    def preload(self, pixels: Sequence[PixelSet]) -> None:
        """Have these decoded pictures in the cache folder of every machine that has a place, before tasks run there."""

    @property
    @abstractmethod
    def idle(self) -> Sequence[Place]:
        """Places that can be given a task."""

    @property
    @abstractmethod
    def starting(self) -> Sequence[Place]:
        """Places whose worker is not ready yet: the first ones, and those that replace dead ones."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether any place has a task."""

    @abstractmethod
    def events(self) -> Iterator[tuple[Place, Task, Message]]:
        """Wait until a task reports something or a starting place becomes idle, and yield what was reported.

        May yield nothing. Call it only while a place is busy or starting. After Died, another place starts in place of
        the dead one. Raises StudyError where workers die again and again while they start.
        """

    @abstractmethod
    def log(self, name: str) -> Path:
        """The file that holds the output of the task of this name."""


# What an engine's workers run.

Receive = Callable[[], Assignment | Answer]
Send = Callable[[Ready | Report], None]


def serve(context: TrialContext, receive: Receive, send: Send, scratch: Path) -> None:
    """Run tasks one after another until the channel closes. It is all that a worker does.

    receive, send: the worker's ends of its channel; both raise ChannelClosedError once the driver's end is gone.
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
    """Runs a worker's tasks and, as their Reporter, passes on what they report."""

    def __init__(self, context: TrialContext, receive: Receive, send: Send, scratch: Path) -> None:
        self._context = context
        self._receive = receive
        self._send = send
        self._scratch = scratch
        self._backbones: LoadedBackbones | None = None

    def outcome(self, assignment: Assignment) -> TrialOutcome | ProbeOutcome | Failed | Refused:
        try:
            return self._run(assignment.task, assignment.files)
        except ChannelClosedError:
            raise
        except StudyError as error:
            return Refused(error.problem, error.fix)
        except Exception as error:  # whatever a plugin or a trial raises is this task's failure, not the study's
            trace = traceback.format_exc()
            print(trace, file=sys.stderr, flush=True)
            return Failed(f"{type(error).__name__}: {error}", trace)

    def epoch(self, row: Epoch) -> str | None:
        self._send(row)
        answer = self._receive()
        assert isinstance(answer, Answer)
        return answer.stop

    def cache_progress(self, done: int, total: int) -> None:
        self._send(CacheProgress(done, total))

    def _run(self, task: Task, files: Mapping[str, bytes]) -> TrialOutcome | ProbeOutcome:
        from autotune.training.trial import run_probe, run_trial

        backbones = self._loaded()
        if isinstance(task, ProbeTask):
            return run_probe(backbones, task.backbone, task.pixels, self)
        return run_trial(backbones, task.number, task.params, files, self._scratch, self)

    def _loaded(self) -> LoadedBackbones:
        """Opened by the first task, so that what it raises is that task's failure."""
        import torch

        from autotune.training.context import LoadedBackbones

        if self._backbones is None:
            torch.set_num_threads(self._context.threads)
            torch.set_flush_denormal(True)  # a trial whose weights vanish would take three times as long
            self._backbones = LoadedBackbones(self._context)
        return self._backbones
