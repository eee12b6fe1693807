"""Runtimes: an exported model run as its user would, from picture files to probabilities, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune import bundle, standalone
from autotune.errors import BundleError

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Task:
    """Which model shall answer which pictures. threads: 0 for as many as there are. plugins: folders to find
    `backbone` in, which model.safetensors needs.
    """

    format: str
    file: str
    paths: tuple[str, ...]
    pixels: int
    interpolation: str
    threads: int
    backbone: str
    plugins: tuple[str, ...]


@dataclass(frozen=True)
class Answers:
    """probabilities: (N, C). milliseconds: the median picture's, decoding included, one at a time. peak_bytes: of the
    process; None where the system does not tell.
    """

    probabilities: NDArray[np.float32]
    milliseconds: float
    peak_bytes: int | None


def run(task: Task) -> Answers:
    """Answer every picture in a new process. Raises BundleError where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        order, out = Path(folder, "task.json"), Path(folder, "answers.npz")
        order.write_text(json.dumps(asdict(task)), encoding="utf-8")
        words = [sys.executable, "-m", "autotune.runtimes", str(order), str(out)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise BundleError(
                f"The {task.format} model does not run: {last}", "Leave this format out, or export another trial."
            )
        with np.load(out) as found:
            peak = int(found["peak"])
            return Answers(found["probabilities"], float(found["milliseconds"]), peak if peak > 0 else None)


def _work(order: Path, out: Path) -> None:
    """The process's life."""
    given = json.loads(order.read_text(encoding="utf-8"))
    task = Task(**{**given, "paths": tuple(given["paths"]), "plugins": tuple(given["plugins"])})
    model = _loaded(task)
    rows, seconds = [], []
    for path in task.paths:
        start = time.perf_counter()
        square = standalone.square(standalone.decode(path), task.pixels, task.interpolation)
        rows.append(model(square[None]))
        seconds.append(time.perf_counter() - start)
    np.savez(out, probabilities=np.concatenate(rows), milliseconds=1000 * np.median(seconds), peak=_peak_bytes())


def _loaded(task: Task) -> Run:
    if task.format in ("onnx", "int8"):
        return bundle.Session(Path(task.file), task.threads).probabilities
    import torch

    if task.threads:
        torch.set_num_threads(task.threads)
    module = _torch_module(task)

    @torch.no_grad()
    def run(squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = module(torch.from_numpy(squares)).numpy()
        return found

    return run


def _torch_module(task: Task):  # type: ignore[no-untyped-def]
    import torch

    if task.format == "pt2":
        return torch.export.load(task.file).module()
    from autotune import graph, plugins

    entry = plugins.catalogue([Path(folder) for folder in task.plugins]).find(task.backbone)
    return graph.loaded(Path(task.file), entry)


def _peak_bytes() -> int:
    """The most memory this process has held; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss would count the parent's, from which this process was forked
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    if os.name != "posix":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: in bytes


if __name__ == "__main__":
    _work(Path(sys.argv[1]), Path(sys.argv[2]))
