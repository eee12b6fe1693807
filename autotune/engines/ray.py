"""Ray engine: places are actors on the machines of a Ray cluster. The databases and the pictures stay with the driver.

A worker is an actor of one class, `RayWorker`. The driver always has one call of its method `reports` waiting for each
place that it expects something from; the call fails when the actor or its machine dies.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autotune.backbones.spec import Backbone
from autotune.backbones.weights import WeightsSource, load_stages, weights_file_name
from autotune.cache.pixels import pixel_rows
from autotune.engines.base import (
    START_LOG,
    Answer,
    Assignment,
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
    Task,
    Unfinished,
)
from autotune.engines.output import log_file
from autotune.engines.ray_cluster import Cluster, resources_of
from autotune.engines.ray_node import (
    Placed,
    RayWorker,
    Setup,
    Versions,
    missing_pictures,
    store_pictures,
    versions,
)
from autotune.errors import StudyError
from autotune.text import first_line, plural

if TYPE_CHECKING:
    from autotune.training.context import TrialContext

SECONDS_TO_PLACE = 60.0  # within which Ray has to find a machine for a worker, if none has one
SECONDS_FOR_OTHERS = 5.0  # and for the other workers, before it sends the pictures to all of them at once
SECONDS_BETWEEN_CHECKS = 1.0  # while none has one
SECONDS_TO_FORGET = 2.0
CHUNK = 32 * 2**20  # bytes of pictures that travel at a time, of which two are in the object store
MESSAGES = 4  # calls of a worker at once: a waiting `reports`, and those that bring messages


class RayEngine(Engine):
    """Actors on a cluster. folder: the study folder, whose `logs/` receive the output of tasks."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder.resolve()
        self._run = uuid.uuid4().hex
        self._places: list[RayPlace] = []
        self._setup: Setup | None = None
        self._pixels: Sequence[PixelSet] = ()
        self._supplied: set[str] = set()  # machines that have the pictures
        self._starts = FailedStarts(self.log(START_LOG))
        self._give_up_at: float | None = None  # on time.monotonic's clock; None once a worker has a machine

    @property
    def device(self) -> str:
        return self._cluster.device

    @property
    def n_places(self) -> int:
        return self._cluster.n_places

    @property
    def words(self) -> str:
        gpu = f" and {self._cluster.gpus:g} GPU" if self._cluster.gpus else ""
        each = f"{plural(self._cluster.cpus, 'CPU')}{gpu}" + (" each" if self.n_places > 1 else "")
        machines = plural(len(self._cluster.machines()), "machine")
        return f"{plural(self.n_places, 'worker')} with {each}, on a Ray cluster of {machines}"

    def __enter__(self) -> Self:
        self._places = [self._new_place() for _ in range(self.n_places)]
        self._give_up_at = time.monotonic() + SECONDS_TO_PLACE
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        done = [place.forget() for place in self._places if place.is_ready and not kind]
        if done:
            ray.wait(done, num_returns=len(done), timeout=SECONDS_TO_FORGET)
        for place in self._places:
            place.end()
        self.close()

    def close(self) -> None:
        """Disconnect from the cluster, unless the program was connected before."""
        self._cluster.disconnect()

    def configure(self, context: TrialContext) -> None:
        shippable, files = _shippable(context)
        shipment = {file: (hashlib.sha256(content).hexdigest(), ray.put(content)) for file, content in files.items()}
        pickled = pickle.dumps(replace(shippable, device=self.device))
        self._setup = Setup(pickled, shipment, self._run, self._cluster.gpus or 1.0, self._cluster.cpus)

    def preload(self, pixels: Sequence[PixelSet]) -> None:
        """Copy the pictures to all machines that Ray has found for workers by now; to others when they have one."""
        self._pixels = pixels
        waiting = {place.expected: place for place in self._places}
        ray.wait(list(waiting), num_returns=1, timeout=SECONDS_TO_PLACE)
        done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=SECONDS_FOR_OTHERS)
        found = [message for ref in done for message in waiting[ref].peek() if isinstance(message, Placed)]
        self._supply([one.node for one in found])

    @property
    def places(self) -> Sequence[RayPlace]:
        return self._places

    def events(self, seconds: float | None = None) -> Iterator[tuple[Place, Task, Message]]:
        if self._give_up_at is not None:
            self._refuse_to_wait()
            seconds = SECONDS_BETWEEN_CHECKS if seconds is None else min(seconds, SECONDS_BETWEEN_CHECKS)
        waiting = {place.expected: place for place in self._places if place.task or not place.is_ready}
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=seconds)
        if done:
            done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        for place in [waiting[ref] for ref in done]:
            task = place.task
            messages, output = place.read()
            if task:
                self._keep_output(task, output)
            for message in messages:
                if isinstance(message, Placed):
                    self._start(place, message)
                elif isinstance(message, Ready):
                    self._starts.reset()
                else:
                    if isinstance(message, Died):
                        self._replace(place, message)
                    if task:
                        yield place, task, message

    def log(self, name: str) -> Path:
        return log_file(self._folder, name)

    def _new_place(self) -> RayPlace:
        worker = ray.remote(RayWorker).options(
            num_cpus=self._cluster.cpus, num_gpus=self._cluster.gpus, max_concurrency=MESSAGES,
            scheduling_strategy="SPREAD",
        )  # fmt: skip
        return RayPlace(worker.remote())

    def _replace(self, place: RayPlace, death: Died) -> None:
        place.end()
        if not place.is_ready:
            self._starts.add(death)
        self._places[self._places.index(place)] = self._new_place()
        if not any(one.host for one in self._places):  # the last machine has died
            self._give_up_at = time.monotonic() + SECONDS_TO_PLACE

    def _start(self, place: RayPlace, placed: Placed) -> None:
        """Let a worker that Ray has found a machine for serve tasks."""
        assert self._setup
        self._give_up_at = None
        _refuse_other_versions(placed)
        self._supply([placed.node])
        place.start(self._setup)

    def _refuse_to_wait(self) -> None:
        """Raise StudyError if Ray finds no machine for any worker."""
        if self._give_up_at is None or time.monotonic() < self._give_up_at:
            return
        needed = resources_of({"CPU": self._cluster.cpus, "GPU": self._cluster.gpus})
        there = "; ".join(f"{host}: {resources_of(one)}" for host, one in self._cluster.machines()) or "no machine"
        raise StudyError(
            f"In {SECONDS_TO_PLACE:.0f} s, no machine of the cluster had {needed} free for a worker. There is {there}.",
            "Wait until other jobs have ended, or ask for less with --workers, --gpus-per-trial or --device cpu.",
        )

    def _supply(self, nodes: Sequence[str]) -> None:
        """Copy the pictures, in chunks and to all machines at once, to those that lack them.

        A machine that dies meanwhile is left out: its workers die as well.
        """
        new = [node for node in dict.fromkeys(nodes) if node not in self._supplied]
        for pixels in self._pixels if new else ():
            lacking = {node: set(_answer(node, _on(node, missing_pictures).remote(pixels)) or ()) for node in new}
            wanted = [digest for digest in pixels.digests if any(digest in each for each in lacking.values())]
            self._send_pictures(pixels, wanted, [node for node in new if lacking[node]])
        self._supplied.update(new)

    def _send_pictures(self, pixels: PixelSet, digests: Sequence[str], nodes: Sequence[str]) -> None:
        rows = pixel_rows(pixels.pixels, pixels.interpolation)
        n = max(1, CHUNK // rows.row_bytes)
        before: list[tuple[str, Any]] = []
        for start in range(0, len(digests), n):
            chunk = digests[start : start + n]
            squares = ray.put(np.asarray(rows.take(rows.places(chunk))))
            sent = [(node, _on(node, store_pictures).remote(pixels, chunk, squares)) for node in nodes]
            for node, ref in before:
                _answer(node, ref)
            before = sent
        for node, ref in before:
            _answer(node, ref)

    def _keep_output(self, task: Task, output: bytes) -> None:
        log = self.log(task.name)
        with contextlib.suppress(OSError):  # the disk of the log may be full
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as out:
                out.write(output)


class RayPlace(Place):
    """One actor. expected: Ray's reference to its next message. host: its machine, once it has one."""

    def __init__(self, worker: Any) -> None:
        self.task: Task | None = None
        self.is_ready = False
        self.expected = worker.placed.remote()
        self._worker = worker
        self.host = ""
        self._killed = ""
        self._given = 0.0  # on time.monotonic's clock

    def start(self, setup: Setup) -> None:
        self._worker.start.remote(setup)
        self.expected = self._worker.reports.remote()

    def give(self, task: Task, files: Mapping[str, bytes], seconds: float | None = None) -> None:
        self.task = task
        self._given = time.monotonic()
        self._worker.give.remote(Assignment(task, files, seconds))
        self.expected = self._worker.reports.remote()

    def answer(self, stop: str | None) -> None:
        self._worker.give.remote(Answer(stop))

    def kill(self, reason: str) -> None:
        self._killed = reason
        self.end()

    def forget(self) -> Any:
        """Let an idle worker delete what it keeps for unfinished tasks; return Ray's reference to wait for."""
        return self._worker.forget.remote()

    def end(self) -> None:
        """Kill the actor, or do not wait for a machine for it any longer."""
        with contextlib.suppress(RayError):
            ray.kill(self._worker)

    @property
    def seconds(self) -> float | None:
        return time.monotonic() - self._given if self.task else None

    def peek(self) -> Sequence[Placed | Died]:
        """Return the message that has arrived from a worker without a task, and keep it for `read`."""
        try:
            return [ray.get(self.expected)]
        except RayError as error:
            return [self._death(error)]

    def read(self) -> tuple[Sequence[Placed | Ready | Message], bytes]:
        """Return the messages that have arrived, or Died, and the task's new output."""
        try:
            found = ray.get(self.expected)
        except RayError as error:
            self.task = None
            return [self._death(error)], b""
        if isinstance(found, Placed):
            self.host = found.host
            return [found], b""
        messages, output = found
        last = messages[-1]
        if isinstance(last, (Outcome, Unfinished, Failed, Refused, Died)):
            self.task = None
        elif not isinstance(last, Ready):
            self.expected = self._worker.reports.remote()
        self.is_ready = self.is_ready or any(isinstance(message, Ready) for message in messages)
        return messages, output

    def _death(self, error: RayError) -> Died:
        return Died(self._killed or _reason(error, self.host), was_killed=bool(self._killed))


def _on(node: str, function: Any) -> Any:
    """Return a function to be called on a machine, whatever runs there."""
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)


def _answer(node: str, ref: Any) -> Any:
    """Return what a function on a machine returned; None if the machine died. Raises StudyError, e.g. for its disk."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, StudyError):
            raise StudyError(f"Machine {node[:8]} of the cluster: {error.cause.problem}", error.cause.fix) from None
        raise
    except RayError:
        return None


def _reason(error: RayError, host: str) -> str:
    """Return why a worker died, in words."""
    where = f" on {host}" if host else ""
    if isinstance(error, OutOfMemoryError):
        return f"Ray ended its process{where} because the machine was out of memory"
    if isinstance(error, ActorUnavailableError):
        return f"its machine{where} does not answer"
    text = str(error)
    if isinstance(error, RayActorError) and "node" in text and "died" in text and "worker process" not in text:
        return f"its machine{where} died"
    if "Error: " in text:
        return next(line.strip() for line in reversed(text.splitlines()) if "Error: " in line)
    if isinstance(error, RayActorError):
        return f"its process{where} died (killed, possibly out of memory)"
    return first_line(error)


def _refuse_other_versions(placed: Placed) -> None:
    """Raise StudyError if a machine has other versions than the driver: its results could differ."""
    here, there = versions(), placed.versions
    for name in Versions.__dataclass_fields__:
        ours, theirs = getattr(here, name), getattr(there, name)
        if ours != theirs:
            raise StudyError(
                f"{placed.host} has {name} {theirs}, this machine {ours}.",
                "Install the same versions on all machines of the cluster, then run the same command again.",
            )


def _shippable(context: TrialContext) -> tuple[TrialContext, dict[str, bytes]]:
    """Return a context whose weights are in packages or in files, and the contents of its files by their paths here.

    A machine may lack what a plugin has downloaded; what is in a package is installed with autotune or the plugin.
    """
    files, backbones = {}, dict(context.backbones)
    for name, (entry, weights) in context.backbones.items():
        files[entry.file] = Path(entry.file).read_bytes()
        if weights.file:
            files[weights.file] = Path(weights.file).read_bytes()
        elif not entry.traits.from_scratch and not (entry.traits.weights or "").startswith("package:"):
            file = f"{weights_file_name(entry)}.safetensors"
            files[file] = _saved_weights(entry, weights)
            backbones[name] = entry, replace(weights, file=file)
    return replace(context, backbones=backbones), files


def _saved_weights(entry: Backbone, weights: WeightsSource) -> bytes:
    from safetensors.torch import save

    return save({name: value.contiguous() for name, value in load_stages(entry, weights).state_dict().items()})
