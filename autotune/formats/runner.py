"""Runner: the process that runs an exported model as a user would, from picture files to probabilities."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autotune.data.decode import crop_square, decode_image
from autotune.formats.inference import InferenceJob, InferenceResult, TimingJob
from autotune.formats.onnx_session import Outputs, Run, joined

N_TIMED_ON_ONE_THREAD = 100  # pictures
FEWEST_RUNS, MOST_RUNS, TIMED_SECONDS = 5, 200, 1.5  # of a network alone


def main(job_file: Path, result_file: Path) -> None:
    """Read a pickled job, run it and write its pickled result."""
    job: InferenceJob | TimingJob = pickle.loads(job_file.read_bytes())
    result = _time(job) if isinstance(job, TimingJob) else _run(job)
    result_file.write_bytes(pickle.dumps(result))


def _run(job: InferenceJob) -> InferenceResult:
    outputs, all_threads = _classify(job, job.format.load(job.model, 0), job.pictures)
    peak = _peak_bytes()
    _, one_thread = _classify(job, job.format.load(job.model, 1), job.pictures[:N_TIMED_ON_ONE_THREAD])
    return InferenceResult(outputs, all_threads, one_thread, peak)


def _time(job: TimingJob) -> float:
    """Return the milliseconds of the median run on one picture and one thread."""
    run = job.format.load(job.model, 1)
    square = np.random.default_rng(0).integers(0, 256, (1, 3, job.pixels, job.pixels), dtype=np.uint8)
    run(square)  # the first run prepares the others
    seconds: list[float] = []
    begin = time.perf_counter()
    while len(seconds) < FEWEST_RUNS or (len(seconds) < MOST_RUNS and time.perf_counter() < begin + TIMED_SECONDS):
        start = time.perf_counter()
        run(square)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds))


def _classify(job: InferenceJob, run: Run, pictures: Sequence[Path]) -> tuple[Outputs, float]:
    """Return the outputs and the milliseconds of the median picture."""
    rows, seconds = [], []
    for picture in pictures:
        start = time.perf_counter()
        square = crop_square(decode_image(picture), job.pixels, job.interpolation)
        rows.append(run(square[None]))
        seconds.append(time.perf_counter() - start)
    return joined(rows), 1000 * float(np.median(seconds))


def _peak_bytes() -> int | None:
    """Return the peak memory of this process; None if the system does not report it."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss would include the parent's memory before the fork
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    if os.name != "posix":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: in bytes


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
