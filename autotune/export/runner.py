"""Runtimes: an exported model run as its user would, from picture files to probabilities, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.data.decode import crop_square, decode_image
from autotune.errors import BundleError
from autotune.export import bundle

TIMED_ON_ONE_THREAD = 100  # pictures

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class InferenceJob:
    """Which model shall answer which pictures. plugins: folders where `backbone` may be, for model.safetensors."""

    format: str
    file: str
    paths: tuple[str, ...]
    pixels: int
    interpolation: str
    backbone: str
    plugins: tuple[str, ...]


@dataclass(frozen=True)
class InferenceResult:
    """probabilities: (N, C). milliseconds: the median picture's, decoding included, one at a time, on all threads and
    on one. peak_bytes: of the process; None where the system does not tell.
    """

    probabilities: NDArray[np.float32]
    milliseconds_all_threads: float
    milliseconds_one_thread: float
    peak_bytes: int | None


def run_job(task: InferenceJob) -> InferenceResult:
    """Answer every picture in a new process. Raises BundleError where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        order, out = Path(folder, "task.json"), Path(folder, "answers.npz")
        order.write_text(json.dumps(asdict(task)), encoding="utf-8")
        words = [sys.executable, "-P", "-m", "autotune.export.runner", str(order), str(out)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise BundleError(
                f"The {task.format} model does not run: {last}", "Leave this format out, or export another trial."
            )
        with np.load(out) as found:
            peak = int(found["peak"])
            times = float(found["all_threads"]), float(found["one_thread"])
            return InferenceResult(found["probabilities"], *times, peak if peak > 0 else None)


def _work(order: Path, out: Path) -> None:
    """The process's life."""
    given = json.loads(order.read_text(encoding="utf-8"))
    task = InferenceJob(**{**given, "paths": tuple(given["paths"]), "plugins": tuple(given["plugins"])})
    probabilities, all_threads = _answered(task, _loaded(task, 0), task.paths)
    peak = _peak_bytes()
    _, one_thread = _answered(task, _loaded(task, 1), task.paths[:TIMED_ON_ONE_THREAD])
    np.savez(out, probabilities=probabilities, all_threads=all_threads, one_thread=one_thread, peak=peak)


def _answered(task: InferenceJob, model: Run, paths: Sequence[str]) -> tuple[NDArray[np.float32], float]:
    """Probabilities (N, C), and the median picture's milliseconds."""
    rows, seconds = [], []
    for path in paths:
        start = time.perf_counter()
        square = crop_square(decode_image(path), task.pixels, task.interpolation)
        rows.append(model(square[None]))
        seconds.append(time.perf_counter() - start)
    return np.concatenate(rows), 1000 * float(np.median(seconds))


def _loaded(task: InferenceJob, threads: int) -> Run:
    """The model, ready to answer. threads: 0 for as many as there are."""
    if task.format in ("onnx", "int8"):
        return bundle.OnnxSession(Path(task.file), threads).probabilities
    import torch

    if threads:
        torch.set_num_threads(threads)
    module = _torch_module(task)

    @torch.no_grad()
    def run(squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = module(torch.from_numpy(squares)).numpy()
        return found

    return run


def _torch_module(task: InferenceJob):  # type: ignore[no-untyped-def]
    import torch

    if task.format == "pt2":
        return torch.export.load(task.file).module()
    from autotune.backbones.registry import discover
    from autotune.export import graph

    entry = discover([Path(folder) for folder in task.plugins]).find(task.backbone)
    return graph.load_graph(Path(task.file), entry)


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
