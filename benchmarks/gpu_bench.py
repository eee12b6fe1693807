"""The setting of benchmarks/gpu.py: its table, made-up networks and pictures, and how a worker computes with them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import bare
import machine
import made_up
import numpy as np
import torch
from torch import Tensor, nn

from autotune.cache.pixels import pixel_rows
from autotune.data.split import Split
from autotune.engines.base import Answer, Assignment, ChannelClosedError, Failed, ProbeTask, serve
from autotune.engines.local import local_devices
from autotune.training.context import LoadedBackbones, TrialContext
from autotune.training.lightning.trainer import quiet_lightning
from autotune.training.outcome import TrialOutcome
from autotune.training.params import Params
from autotune.training.probe import LinearProbe, probe_file_name
from autotune.training.trial import run_trial

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
BATCH_SIZE = 64  # of training
BARE_BATCH = 256  # of the forward pass that filling the feature cache is compared with
AUGMENT = 0.25  # the clean view and one other are cached
FILL, TRAIN, TRAIN_HEAD = 0.8, 0.95, 0.7  # targets: shares of the bare loops
UNKNOWN = "unknown"
NOT_MEASURED = "not measured: no GPU"
LAUNCHES = re.compile(r"cuda|cu[A-Z]|aten::(fill_|copy_|item|_local_scalar_dense)$")


class Table:
    """Prints rows, and appends them as JSON lines to a file, if there is one. targets: the rows that have one."""

    def __init__(self, file: Path | None) -> None:
        self.targets: list[str] = []
        self._file = file
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def row(self, part: str, what: str, share: float | None = None, target: float | None = None, **facts: Any) -> None:
        """Print one row. share: the value that the target is compared with."""
        words = [f"{name.replace('_', ' ')} {_short(value)}" for name, value in facts.items()]
        if share is not None and target is not None:
            reached = machine.verdict(share, target) if CUDA else f"target at least {target:g}: {NOT_MEASURED}"
            words.append(reached)
            self.targets.append(f"{part:9} {what:44} {reached}")
        print(f"{part:9} {what:44} {'; '.join(words)}", flush=True)
        if self._file:
            row = {"part": part, "what": what, "at": round(self.seconds), "share": share, "target": target, **facts}
            with self._file.open("a") as out:
                out.write(json.dumps({**row, "gpu": CUDA}, default=str) + "\n")

    @contextlib.contextmanager
    def guarded(self, part: str, what: str) -> Iterator[None]:
        """Go on after an exception, with its traceback and a row."""
        try:
            yield
        except Exception as error:  # of a measurement that relies on details of autotune or torch
            traceback.print_exc()
            self.row(part, f"{what}: failed", error=repr(error)[:300])


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(one)}" for key, one in value.items())
    return str(value)


@dataclass
class Bench:
    """What all parts share. parts: made-up pictures, as random pixel rows. weights: a folder of random weights."""

    table: Table
    root: Path
    names: Sequence[str]
    n: int
    pixels: int
    tiny: bool
    batch_size: int = BATCH_SIZE
    parts: Split = field(init=False)
    weights: Path = field(init=False)
    _contexts: dict[tuple[str, int], TrialContext] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.root.mkdir(exist_ok=True)
        self.weights = made_up.random_weights(self.names, self.root / "weights")
        self.parts = made_up.split(self.n, max(self.n // 32, 8), self.root)

    @property
    def n_steps(self) -> int:
        """Training steps of an epoch."""
        return -(-self.n // self.batch_size)

    def context(self, name: str, parts: Split | None = None) -> TrialContext:
        """Return the context of a study with default settings, as a worker on the device receives it."""
        parts = parts or self.parts
        key = name, len(parts.pictures)
        if key not in self._contexts:
            flags = {"backbone": name, "pixels": self.pixels}
            found = made_up.context(parts, DEVICE.type, flags, self.weights)
            self._contexts[key] = found.on(local_devices(DEVICE.type)[0], found.threads, 1.0)
        context = self._contexts[key]
        store = pixel_rows(self.pixels, context.backbones[name][0].traits.interpolation)
        if missing := store.missing(context.pool.digests):
            made_up.write_random(store, missing)
        return context

    def trials(self, name: str, depth: int | None, epochs: int, parts: Split | None = None) -> Trials:
        """Return what runs trials of this depth (None: all stages) from the feature cache, or else from pixels."""
        context = self.context(name, parts)
        n_stages = len(LoadedBackbones(context).chain(name))
        depth = n_stages if depth is None else depth
        cuts = tuple(sorted({n_stages, n_stages - depth} - {0}))
        context = replace(
            context, epochs=epochs, cycle_epochs=1, patience=epochs, gap=1.0, cuts={(name, self.pixels): cuts}
        )
        return Trials(LoadedBackbones(context), name, depth, self.pixels, self.batch_size, self.root)


@dataclass
class Trials:
    """Runs trials of one network and depth, as a worker does."""

    backbones: LoadedBackbones
    name: str
    depth: int
    pixels: int
    batch_size: int
    scratch: Path

    @property
    def label(self) -> str:
        return f"{self.name}, depth {self.depth} of {len(self.backbones.chain(self.name))}"

    @property
    def params(self) -> Params:
        return Params(
            backbone=self.name, depth=self.depth, pixels=self.pixels, lr_low=1e-6, lr_high=1e-5, cycle="triangular",
            augment=AUGMENT, class_weight=0.0, optimizer="adamw", batch_size=self.batch_size, weight_decay=0.01,
            dropout=0.0, label_smoothing=0.0,
        )  # fmt: skip

    def run(self, number: int, reporter: made_up.Reporter) -> TrialOutcome:
        """Run a trial; its head starts from a made-up probe, because fitting one takes long on random pictures."""
        classes, features = self.backbones.context.classes, self.backbones.profile(self.name, self.pixels).features
        weight = np.random.default_rng(0).normal(0, 0.01, (classes, features)).astype(np.float32)
        probe = LinearProbe(weight, np.zeros(classes, np.float32), None)
        files = {probe_file_name(self.name, self.pixels): probe.to_bytes()}
        with quiet_lightning():
            return run_trial(self.backbones, number, self.params, files, self.scratch, reporter)


def become_worker(context: TrialContext, name: str, pixels: int, scratch: Path) -> None:
    """Set up this process as a worker sets up its own: by a worker's main loop, with one probe as its only task."""
    tasks = iter([Assignment(ProbeTask(name, pixels), {})])

    def receive() -> Assignment | Answer:
        for task in tasks:
            return task
        raise ChannelClosedError

    def send(message: object) -> None:
        if isinstance(message, Failed):
            print(f"A worker's first task failed: {message.error}")

    serve(context, receive, send, scratch)


# Helpers of the parts


class Busy:
    """Meanwhile, reads utilisation and used memory of the GPU from nvidia-smi, five times a second."""

    def __init__(self) -> None:
        self.use: list[int] = []
        self.memory: list[int] = []
        self._process: subprocess.Popen[str] | None = None
        self._first = threading.Event()

    def __enter__(self) -> Busy:
        query = "--query-gpu=utilization.gpu,memory.used"
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits", "-lms", "200"]
        if CUDA:
            with contextlib.suppress(OSError):
                self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                threading.Thread(target=self._read, daemon=True).start()
                self._first.wait(5)  # it takes a second to start
        self.use.clear()
        self.memory.clear()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()

    def _read(self) -> None:
        assert self._process
        assert self._process.stdout
        for line in self._process.stdout:
            found = re.findall(r"\d+", line)
            if len(found) >= 2:
                self.use.append(int(found[0]))
                self.memory.append(int(found[1]))
            self._first.set()

    @property
    def share(self) -> float:
        """Mean utilisation, from 0 to 1; NaN if unknown."""
        return float(np.mean(self.use)) / 100 if self.use else math.nan

    @property
    def facts(self) -> dict[str, Any]:
        if not self.use:
            return {}
        return {"GPU_busy_%": 100 * self.share, "used_MiB": max(self.memory, default=0)}


@contextlib.contextmanager
def empty_cache(root: Path) -> Iterator[None]:
    """Use a new cache folder, with the pixels of the current one."""
    before = os.environ["AUTOTUNE_CACHE"]
    with tempfile.TemporaryDirectory(dir=root) as made:
        (Path(before) / "pixels").mkdir(parents=True, exist_ok=True)
        (Path(made) / "pixels").symlink_to(Path(before) / "pixels")
        os.environ["AUTOTUNE_CACHE"] = made
        try:
            yield
        finally:
            os.environ["AUTOTUNE_CACHE"] = before


def matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # it has been set by a newer function of torch
        return UNKNOWN


@contextlib.contextmanager
def matmul(precision: str, deterministic: bool | None = None) -> Iterator[None]:
    """Meanwhile, compute float32 products like this. deterministic: kernels; None: leave that as it is."""
    before = matmul_precision()
    chosen = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if precision != before:
        torch.set_float32_matmul_precision(precision)
    if deterministic is not None:
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
    try:
        yield
    finally:
        if precision != before and before != UNKNOWN:
            torch.set_float32_matmul_precision(before)
        torch.use_deterministic_algorithms(chosen, warn_only=warn_only)


def forward_rate(chain: nn.Module, batch: int, pixels: int, kind: torch.dtype, n: int) -> float:
    """Return pictures per second of a bare forward pass on the device, under autocast unless `kind` is float32."""
    x = torch.randn(batch, 3, pixels, pixels, device=DEVICE).contiguous(memory_format=torch.channels_last)
    half = kind != torch.float32
    with torch.autocast(DEVICE.type, kind if half else torch.bfloat16, enabled=half and CUDA):
        return batch / bare.forward_seconds(chain, x, n)


@contextlib.contextmanager
def observed() -> Iterator[dict[str, Any]]:
    """Observe in which precision and batches the first convolution or linear layer computes meanwhile."""
    seen: dict[str, Any] = {}

    def look(module: nn.Module, inputs: Any) -> None:
        if not seen and isinstance(module, (nn.Conv2d, nn.Linear)) and inputs and isinstance(inputs[0], Tensor):
            kind = inputs[0].device.type
            is_half = torch.is_autocast_enabled(kind)
            seen["precision"] = torch.get_autocast_dtype(kind) if is_half else inputs[0].dtype
            seen["batch"] = len(inputs[0])

    handle = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b - b.mean())), 1e-12)


def settings() -> dict[str, Any]:
    """Return what a worker has set for its whole process."""
    found: dict[str, Any] = {"float32_matmul": matmul_precision(), "threads": torch.get_num_threads()}
    with contextlib.suppress(RuntimeError):  # as in matmul_precision
        found["tf32_convolutions"] = torch.backends.cudnn.allow_tf32
    return {**found, "cudnn_benchmark": torch.backends.cudnn.benchmark}
