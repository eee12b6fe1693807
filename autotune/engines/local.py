"""Local engine: places are child processes on this machine, each on one of its devices."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from autotune.engines.base import (
    START_LOG,
    Answer,
    Assignment,
    ChannelClosedError,
    Died,
    Engine,
    Failed,
    FailedStarts,
    Message,
    Outcome,
    PixelSet,
    Place,
    Ready,
    Refused,
    Report,
    Task,
    Unfinished,
    serve,
)
from autotune.engines.output import leave, log_file, redirect_output
from autotune.garbage import collected_less_often

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

    from autotune.training.context import TrialContext

Result = TypeVar("Result")

SECONDS_TO_EXIT = 2.0
# Imported once for all workers, while the driver reads the pictures; probes and the default backbone need the others.
PRELOADED = ["autotune.training.trial", "sklearn.linear_model", "scipy.cluster.hierarchy", "timm"]
LONGEST_SOCKET = 107  # bytes of a path, on Linux


class LocalEngine(Engine):
    """Child processes of the driver, each with at most one task.

    devices: one for each place, as of `local_devices`. folder: the study folder. `checkpoints/` contains checkpoints of
    unfinished trials, `logs/` the output of tasks.
    """

    def __init__(self, devices: Sequence[str], folder: Path) -> None:
        self._devices = devices
        self._folder = folder.resolve()
        self._places: list[LocalPlace] = []
        self._context: TrialContext | None = None
        self._starts = FailedStarts(self.log(START_LOG))

    @property
    def device(self) -> str:
        return self._devices[0].partition(":")[0]

    @property
    def n_places(self) -> int:
        return len(self._devices)

    @property
    def words(self) -> str:
        n, n_devices = self.n_places, len(set(self._devices))
        return "" if n == 1 else f"{n} workers" + (f" on {n_devices} GPUs" if n_devices > 1 else "")

    def __enter__(self) -> Self:
        self._places = [LocalPlace(self._folder, device) for device in self._devices]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for place in self._places:
            place.close()
        for place in self._places:
            place.wait_or_kill(0.0 if kind else SECONDS_TO_EXIT)

    def close(self) -> None:
        """Do nothing: only the workers hold anything."""

    def configure(self, context: TrialContext) -> None:
        self._context = context
        for place in self._places:
            self._configure(place, context)

    def _configure(self, place: LocalPlace, context: TrialContext) -> None:
        """Divide the CPU among all places, and a device's memory among the places on it."""
        threads = max(1, context.threads // self.n_places)
        place.configure(context.on(place.device, threads, 1 / self._devices.count(place.device)))

    def preload(self, pixels: Sequence[PixelSet]) -> None:
        """Do nothing: the workers read the driver's cache folder."""

    @property
    def places(self) -> Sequence[LocalPlace]:
        return self._places

    def events(self, seconds: float | None = None) -> Iterator[tuple[Place, Task, Message]]:
        waiting = {place.pipe: place for place in self._places if place.task or not place.is_ready}
        for pipe in connection.wait(list(waiting), seconds):
            place = waiting[pipe]  # type: ignore[index]
            task = place.task
            message = place.read()
            if isinstance(message, Died):
                self._replace(place, message)
            elif isinstance(message, Ready):
                self._starts.reset()
                continue
            if task:
                yield place, task, message

    def log(self, name: str) -> Path:
        return log_file(self._folder, name)

    def _replace(self, place: LocalPlace, death: Died) -> None:
        if not place.is_ready:
            self._starts.add(death)
        new = LocalPlace(self._folder, place.device)
        self._places[self._places.index(place)] = new
        assert self._context
        self._configure(new, self._context)


class LocalPlace(Place):
    """One child process."""

    def __init__(self, folder: Path, device: str) -> None:
        self.device = device
        context = _process_context()
        self.pipe, theirs = context.Pipe()
        self.task: Task | None = None
        self.is_ready = False
        self._killed = ""
        self._given = 0.0  # on time.monotonic's clock
        # The context is sent through the pipe. As an argument, a large context blocks this process forever if the child
        # dies early. The child can also load torch while the context is being built.
        self._process = context.Process(target=_work, args=(theirs, folder, dict(os.environ)), daemon=True)
        with ignored_ctrl_c(), hidden_main():
            self._process.start()
        theirs.close()

    def configure(self, context: TrialContext) -> None:
        """Send the context, once, before the first task."""
        self._send(context)

    def give(self, task: Task, files: Mapping[str, bytes], seconds: float | None = None) -> None:
        self.task = task
        self._given = time.monotonic()
        self._send(Assignment(task, files, seconds))

    def answer(self, stop: str | None) -> None:
        self._send(Answer(stop))

    def kill(self, reason: str) -> None:
        self._killed = reason
        self._process.kill()

    @property
    def seconds(self) -> float | None:
        return time.monotonic() - self._given if self.task else None

    def read(self) -> Ready | Message:
        """Return the next message, or Died if the process has exited."""
        try:
            message: Ready | Message = self.pipe.recv()
        except (EOFError, OSError):
            self.close()
            self.wait_or_kill(0.0)
            return Died(self._killed or _reason(self._process.exitcode), was_killed=bool(self._killed))
        self.is_ready = True
        if isinstance(message, (Outcome, Unfinished, Failed, Refused)):
            self.task = None
        return message

    def close(self) -> None:
        """Close the pipe: the child exits on its next read."""
        self.pipe.close()

    def wait_or_kill(self, seconds: float) -> None:
        """Wait this long for the child to exit, then kill it."""
        if seconds:
            self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # the next `read` returns Died
            self.pipe.send(message)


def local_devices(device: str, workers: int | None = None) -> tuple[str, ...]:
    """Return the device of each place: this many places, by default one, on each GPU, or else on the only device.

    device: as of `pick_device`. `cuda` means all GPUs, `cuda:1` the second one.
    """
    import torch

    workers = workers or 1
    n_gpus = torch.cuda.device_count() if device == "cuda" else 0
    if n_gpus:
        return tuple(f"cuda:{number % n_gpus}" for number in range(n_gpus * workers))
    return (device,) * workers


def warm_up() -> None:
    """Start the process that workers are forked from, so that it imports torch while this one does.

    Otherwise it is started with the first worker, which waits for it.
    """
    if _process_context().get_start_method() == "forkserver":
        from multiprocessing.forkserver import ensure_running  # does not exist on Windows

        with ignored_ctrl_c():
            ensure_running()


def call_in_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Return what a function returns in a process that exits afterwards."""
    with ignored_ctrl_c(), hidden_main(), ProcessPoolExecutor(1, _process_context()) as pool:
        return pool.submit(function, *arguments).result()


def _process_context() -> SpawnContext | ForkServerContext:
    """Return how to start a worker: by a process that has imported torch, once for all workers, or as a new one.

    The former only on Linux: Windows has no fork, and on macOS a fork of threads that a library has started may crash.
    """
    if sys.platform != "linux" or not _can_listen():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _can_listen() -> bool:
    """Return whether the folder of temporary files can contain a socket, which starting by a fork needs.

    On clusters, its path can be too long, and in a container it may be read-only.
    """
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:  # none is writable
        return False
    return len(os.fsencode(folder)) + len("/pymp-12345678/listener-12345678") <= LONGEST_SOCKET


def _reason(exit_code: int | None) -> str:
    killed = " (killed, possibly out of memory)" if exit_code == -signal.SIGKILL else ""
    return f"its process exited with code {exit_code}{killed}"


@contextlib.contextmanager
def ignored_ctrl_c() -> Iterator[None]:
    """Let children started in this context ignore Ctrl-C. A terminal sends it to them too; the driver handles it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def hidden_main() -> Iterator[None]:
    """Let children started in this context not run the user's script again. Python does so if the script has no
    `if __name__ == "__main__"`; workers do not need it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


# In the child process.


@collected_less_often()
def _work(pipe: Connection[Any, Any], folder: Path, environment: Mapping[str, str]) -> None:
    """Load torch, wait for the context, then serve. environment: of the driver; that of a forked process is older."""
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # in case it is not inherited
    threading.Thread(target=_exit_with_the_driver, daemon=True).start()
    redirect_output(Path(os.devnull))  # until there is a task
    channel, scratch = _Channel(pipe, folder), folder / "checkpoints"
    try:
        from autotune.training.trial import run_trial  # noqa: F401  # takes seconds, while the driver makes the plan

        context = channel.receive_context()
        scratch.mkdir(parents=True, exist_ok=True)
    except ChannelClosedError:
        return
    except Exception:  # an import or a context can fail in any way; the traceback belongs in the log
        redirect_output(log_file(folder, START_LOG))
        traceback.print_exc()
        raise SystemExit(1) from None
    serve(context, channel.receive, channel.send, scratch)
    leave(0)


class _Channel:
    """The child's end of the pipe. Redirects output to the log of the last received task."""

    def __init__(self, pipe: Connection[Any, Any], folder: Path) -> None:
        self._pipe = pipe
        self._folder = folder

    def receive_context(self) -> TrialContext:
        context: TrialContext = self._receive()
        return context

    def receive(self) -> Assignment | Answer:
        message: Assignment | Answer = self._receive()
        if isinstance(message, Assignment):
            redirect_output(log_file(self._folder, message.task.name))
        return message

    def send(self, message: Ready | Report) -> None:
        try:
            self._pipe.send(message)
        except OSError as error:
            raise ChannelClosedError from error

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            raise ChannelClosedError from error


def _exit_with_the_driver() -> None:
    """Exit when the driver exits, even in the middle of an epoch."""
    parent = multiprocessing.parent_process()
    assert parent
    connection.wait([parent.sentinel])
    os._exit(1)
