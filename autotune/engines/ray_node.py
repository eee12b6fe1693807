"""What runs on the machines of a Ray cluster: workers, and storing the pictures that they train on."""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import queue
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from numpy.typing import NDArray

from autotune.cache import eviction
from autotune.cache.pixels import pixel_rows
from autotune.engines.base import Answer, Assignment, Died, PixelSet, Ready, Report, serve
from autotune.engines.output import leave, log_file, redirect_output
from autotune.files import cache_folder, make_folder, write_whole
from autotune.garbage import collected_less_often

if TYPE_CHECKING:
    from autotune.training.context import TrialContext

MOST_OUTPUT = 2**20  # bytes of a task's output that travel with one report
SECONDS_KEPT = 2 * 24 * 3600  # of the checkpoints of unfinished trials that a run left behind

Shipment = Mapping[str, tuple[str, Any]]  # by path on the driver's machine: SHA-256, and Ray's reference to the content


@dataclass(frozen=True)
class Versions:
    """Versions that have to be the same on all machines."""

    python: str
    torch: str
    ray: str
    autotune: str


@dataclass(frozen=True)
class Placed:
    """A worker's first message. node: id of its machine in the cluster. host: name of the machine."""

    node: str
    host: str
    versions: Versions


@dataclass(frozen=True)
class Setup:
    """What a worker needs before its first task.

    context: pickled. shipment: the files that it names. run: name of the folder for unfinished trials, which the
    workers of a machine share. share: of a GPU that belongs to the worker. threads: of the CPU.
    """

    context: bytes
    shipment: Shipment
    run: str
    share: float
    threads: int


def versions() -> Versions:
    """Return the versions of this environment, without importing torch, which takes seconds."""
    torch, own = (metadata.version(name) for name in ("torch", "autotune-vision"))
    return Versions(platform.python_version(), torch.partition("+")[0], ray.__version__, own)


class RayWorker:
    """A Ray actor with several threads: in one, tasks run; the others carry the messages of the driver."""

    def __init__(self) -> None:
        self._inbox: queue.Queue[Assignment | Answer] = queue.Queue()
        self._outbox: queue.Queue[Ready | Report | Died] = queue.Queue()
        self._scratch: Path | None = None
        self._output: Path | None = None
        self._log = Path(os.devnull)
        self._sent = 0  # bytes of the log

    def placed(self) -> Placed:
        """Say where this worker is. Ray answers once it has found a machine for it."""
        return Placed(ray.get_runtime_context().get_node_id(), platform.node(), versions())

    def start(self, setup: Setup) -> None:
        """Start to serve tasks."""
        threading.Thread(target=self._work, args=(setup,), daemon=True).start()

    def give(self, message: Assignment | Answer) -> None:
        self._inbox.put(message)

    def forget(self) -> None:
        """Delete the checkpoints of unfinished trials, and the output: nothing will be continued here."""
        for folder in (self._scratch, self._output):
            if folder:
                shutil.rmtree(folder, ignore_errors=True)

    def reports(self) -> tuple[list[Ready | Report | Died], bytes]:
        """Wait for a report; return all that there are, and the output since the last call."""
        found = [self._outbox.get()]
        while not self._outbox.empty():
            found.append(self._outbox.get())
        return found, self._new_output()

    @collected_less_often()
    def _work(self, setup: Setup) -> None:
        try:
            context = _unpacked(setup)
            self._scratch = _scratch_folder(setup.run)
            self._output = make_folder(cache_folder() / "ray" / "output" / str(os.getpid()))
        except Exception as error:  # an import or a context can fail in any way
            traceback.print_exc()
            self._outbox.put(Died(f"{type(error).__name__}: {error}"))
            return
        try:
            with eviction.in_use():
                serve(context, self._receive, self._outbox.put, self._scratch)
        except SystemExit as stopped:  # it would end this thread only
            leave(stopped.code if isinstance(stopped.code, int) else 1)
        except BaseException:  # a bug: without this thread, the driver would wait forever
            traceback.print_exc()
            leave(1)

    def _receive(self) -> Assignment | Answer:
        message = self._inbox.get()
        if isinstance(message, Assignment):
            assert self._output
            shutil.rmtree(self._output, ignore_errors=True)  # it has reached the driver
            self._log, self._sent = log_file(self._output, message.task.name), 0
            redirect_output(self._log)
        return message

    def _new_output(self) -> bytes:
        sys.stdout.flush()
        sys.stderr.flush()
        if not self._log.is_file():
            return b""
        with self._log.open("rb") as log:
            log.seek(self._sent)
            found = log.read(MOST_OUTPUT)
        self._sent += len(found)
        return found


def _unpacked(setup: Setup) -> TrialContext:
    """Return the context for this worker: with files of this machine, and its own device and threads."""
    context: TrialContext = pickle.loads(setup.context)
    own = {path: _kept(Path(path).name, *shipped) for path, shipped in setup.shipment.items()}
    backbones = {
        name: (
            replace(entry, file=own.get(entry.file, entry.file)),
            replace(weights, file=own.get(weights.file or entry.name, weights.file)),
        )
        for name, (entry, weights) in context.backbones.items()
    }
    device = "cuda:0" if context.device.startswith("cuda") else "cpu"
    return replace(context, backbones=backbones).on(device, setup.threads, setup.share)


def _kept(name: str, digest: str, reference: Any) -> str:
    """Keep a file from the driver's machine in the cache folder, in a folder named by its hash. Return its path."""
    content: bytes = ray.get(reference)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{name} was damaged on its way to {platform.node()}")
    file = make_folder(cache_folder() / "ray" / "files" / digest[:32]) / name
    if not file.is_file():
        write_whole(file, content)
    return str(file)


def _scratch_folder(run: str) -> Path:
    """Return the folder of a run for the checkpoints of unfinished trials; delete those that old runs left behind."""
    folder = cache_folder() / "ray" / "unfinished"
    for old in folder.glob("*"):
        if old.stat().st_mtime < time.time() - SECONDS_KEPT:
            shutil.rmtree(old, ignore_errors=True)
    return make_folder(folder / run)


def missing_pictures(pixels: PixelSet) -> list[str]:
    """Return the digests of pictures that this machine's cache lacks."""
    return pixel_rows(pixels.pixels, pixels.interpolation).missing(pixels.digests)


def store_pictures(pixels: PixelSet, digests: Sequence[str], squares: NDArray[Any]) -> None:
    """Store decoded pictures in this machine's cache, unless they are there. squares: (N, 3, P, P), uint8."""
    rows = pixel_rows(pixels.pixels, pixels.interpolation)
    with rows.lock():
        missing = set(rows.missing(digests))
        places = [place for place, digest in enumerate(digests) if digest in missing]
        if places:
            rows.append([digests[place] for place in places], squares[places])
