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
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.engines.base import CacheProgress, Died, Failed, ProbeTask, Refused, Task
from autotune.errors import StudyError
from autotune.training.outcome import Epoch, ProbeOutcome, TrialOutcome

if TYPE_CHECKING:
    from autotune.training.context import TrialContext

SECONDS_TO_LEAVE = 5.0


class LocalPlace:
    """One child process. It is started with spawn, so that Linux, macOS and Windows do the same."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        # The lesson goes by the pipe: as an argument, a large one hangs this process where the child dies early;
        # and the child can load torch while the lesson is still being made.
        self.process = spawn.Process(target=_work, args=(theirs,), daemon=True)
        with _deaf_to_ctrl_c(), _no_main():
            self.process.start()
        theirs.close()
        self.task: Task | None = None

    def teach(self, context: TrialContext) -> None:
        """Once, before its first task."""
        self._send(context)

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


class LocalEngine:
    """Some workers, each with at most one task. Leaving the `with` block leaves no process behind."""

    def __init__(self, n: int) -> None:
        self._workers = [LocalPlace() for _ in range(n)]
        self._context: TrialContext | None = None

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for worker in self._workers:
            worker.close(at_once=kind is not None)

    def teach(self, context: TrialContext) -> None:
        """Tell all what their tasks share, before the first of them."""
        self._context = context
        for worker in self._workers:
            worker.teach(context)

    def log(self, name: str) -> Path:
        """Where a task's output is kept."""
        assert self._context
        return self._context.folder / "logs" / f"{name}.log"

    @property
    def idle(self) -> list[LocalPlace]:
        return [worker for worker in self._workers if worker.task is None]

    @property
    def busy(self) -> bool:
        return any(worker.task for worker in self._workers)

    def events(
        self,
    ) -> Iterator[tuple[LocalPlace, Task, Epoch | CacheProgress | TrialOutcome | ProbeOutcome | Failed | Died]]:
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
            if isinstance(news, (TrialOutcome, ProbeOutcome, Failed)):
                worker.task = None
            yield worker, task, news

    def _replaced(self, worker: LocalPlace) -> LocalPlace:
        worker.close(at_once=True)
        place = self._workers.index(worker)
        self._workers[place] = LocalPlace()
        assert self._context
        self._workers[place].teach(self._context)
        return self._workers[place]


class PipeReporter:
    """The worker's end of the pipe, as training knows it."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self._pipe = pipe

    def epoch(self, row: Epoch) -> str | None:
        self._pipe.send(row)
        answer: str | None = self._pipe.recv()
        return answer

    def banking(self, done: int, total: int) -> None:
        self._pipe.send(CacheProgress(done, total))


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
    line = PipeReporter(pipe)
    kept: Any = None
    try:
        from autotune.training.trial import run_trial  # noqa: F401  # seconds, which the driver needs for the plan

        context = pipe.recv()
        while True:
            task = pipe.recv()
            _log_to(Path(task.log))
            try:
                kept = kept or _opened(context)
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


def _opened(context: TrialContext) -> Any:
    import torch

    from autotune.training.context import LoadedBackbones

    torch.set_num_threads(context.threads)
    torch.set_flush_denormal(True)  # a trial whose weights die away would take three times as long
    return LoadedBackbones(context)


def _done(task: Task, kept: Any, line: PipeReporter) -> Any:
    from autotune.training.trial import run_probe, run_trial

    if isinstance(task, ProbeTask):
        return run_probe(kept, task.backbone, task.pixels, line)
    return run_trial(kept, task.number, task.params, line)


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
