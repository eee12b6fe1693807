"""Where trials run: child processes that report every epoch and can be stopped, killed and replaced."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import types
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import StudyError
from autotune.params import Params

if TYPE_CHECKING:
    from autotune.lesson import Lesson
    from autotune.training import Epoch, Outcome, ProbeOutcome

SECONDS_TO_LEAVE = 5.0


@dataclass(frozen=True)
class ProbeTask:
    backbone: str
    pixels: int
    log: str


@dataclass(frozen=True)
class TrialTask:
    number: int
    params: Params
    log: str


Task = ProbeTask | TrialTask


@dataclass(frozen=True)
class Banking:
    """So many pictures of one view are through the frozen stages."""

    done: int
    total: int


@dataclass(frozen=True)
class Failed:
    """The task raised. error: its last line; trace: the whole traceback."""

    error: str
    trace: str


@dataclass(frozen=True)
class Refused:
    """The study cannot go on until its user mends something: a full disk."""

    problem: str
    fix: str


@dataclass(frozen=True)
class Died:
    """The worker is gone: killed, or out of memory. A new one has taken its place."""

    exit_code: int | None


class Worker:
    """One child process. It is started with spawn, so that Linux, macOS and Windows do the same."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        # The lesson goes by the pipe: as an argument, a large one hangs this process where the child dies early;
        # and the child can load torch while the lesson is still being made.
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)
        with _deaf_to_ctrl_c(), _no_main():
            self.process.start()
        theirs.close()
        self.task: Task | None = None

    def teach(self, lesson: Lesson) -> None:
        """Once, before its first task."""
        self._send(lesson)

    def give(self, task: Task) -> None:
        self.task = task
        self._send(task)

    def answer(self, stop: str | None) -> None:
        """Answer an Epoch: None to go on, or why to stop."""
        self._send(stop)

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # a worker that has died is heard of in `Workers.events`
            self.pipe.send(message)

    def close(self, at_once: bool) -> None:
        if not at_once:
            self.pipe.close()
            self.process.join(SECONDS_TO_LEAVE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


class Workers:
    """Some workers, each with at most one task. Leaving the `with` block leaves no process behind."""

    def __init__(self, n: int) -> None:
        self._workers = [Worker() for _ in range(n)]
        self._lesson: Lesson | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for worker in self._workers:
            worker.close(at_once=kind is not None)

    def teach(self, lesson: Lesson) -> None:
        """Tell all what their tasks share, before the first of them."""
        self._lesson = lesson
        for worker in self._workers:
            worker.teach(lesson)

    def log(self, name: str) -> Path:
        """Where a task's output is kept."""
        assert self._lesson
        return self._lesson.folder / "logs" / f"{name}.log"

    @property
    def idle(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.task is None]

    @property
    def busy(self) -> bool:
        return any(worker.task for worker in self._workers)

    def events(self) -> Iterator[tuple[Worker, Task, Epoch | Banking | Outcome | ProbeOutcome | Failed | Died]]:
        """Wait for news of the running tasks and hand it out. An Epoch waits for its answer; the rest end or inform.

        Raises StudyError where a worker was refused what the whole study needs.
        """
        pipes = {worker.pipe: worker for worker in self._workers if worker.task}
        for pipe in connection.wait(list(pipes)):
            worker = pipes[pipe]  # type: ignore[index]
            task = worker.task
            assert task
            try:
                news = worker.pipe.recv()
            except (EOFError, OSError):
                yield self._replaced(worker), task, Died(worker.process.exitcode)
                continue
            if isinstance(news, Refused):
                raise StudyError(news.problem, news.fix)
            if type(news).__name__ in ("Outcome", "ProbeOutcome", "Failed"):
                worker.task = None
            yield worker, task, news

    def _replaced(self, worker: Worker) -> Worker:
        worker.close(at_once=True)
        place = self._workers.index(worker)
        self._workers[place] = Worker()
        assert self._lesson
        self._workers[place].teach(self._lesson)
        return self._workers[place]


class Line:
    """The worker's end of the pipe, as training knows it."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self._pipe = pipe

    def epoch(self, row: Epoch) -> str | None:
        self._pipe.send(row)
        answer: str | None = self._pipe.recv()
        return answer

    def banking(self, done: int, total: int) -> None:
        self._pipe.send(Banking(done, total))


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """What is started in here never hears Ctrl-C, which a terminal sends to children too: it is the driver's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """What is started in here does not run the user's script again, as spawn does with a script that has no
    `if __name__ == "__main__"`: workers need nothing of it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _work(pipe: Connection[Any, Any]) -> None:
    """A worker's life: tasks one after another until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it is not inherited
    threading.Thread(target=_leave_with_the_driver, daemon=True).start()
    _log_to(Path(os.devnull))  # until there is a task
    line = Line(pipe)
    kept: Any = None
    try:
        from autotune import training  # noqa: F401  # seconds, which the driver needs for the plan

        lesson = pipe.recv()
        while True:
            task = pipe.recv()
            _log_to(Path(task.log))
            try:
                kept = kept or _opened(lesson)
                pipe.send(_done(task, kept, line))
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except StudyError as error:
                pipe.send(Refused(error.problem, error.fix))
            except Exception as error:  # whatever a plugin or a trial raises is this trial's failure, not the study's
                trace = traceback.format_exc()
                print(trace, file=sys.stderr, flush=True)
                pipe.send(Failed(f"{type(error).__name__}: {error}", trace))
    except (EOFError, OSError):
        return


def _opened(lesson: Lesson) -> Any:
    import torch

    from autotune.lesson import Backbones

    torch.set_num_threads(lesson.threads)
    torch.set_flush_denormal(True)  # a trial whose weights die away would take three times as long
    return Backbones(lesson)


def _done(task: Task, kept: Any, line: Line) -> Any:
    from autotune import training

    if isinstance(task, ProbeTask):
        return training.run_probe(kept, task.backbone, task.pixels, line)
    return training.run_trial(kept, task.number, task.params, line)


def _leave_with_the_driver() -> None:
    """End this process when the driver's ends, even in the middle of an epoch."""
    parent = multiprocessing.parent_process()
    assert parent
    connection.wait([parent.sentinel])
    os._exit(1)


def _log_to(file: Path) -> None:
    """Send all that this process prints, from Python and from libraries below it, to the task's log."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with file.open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
