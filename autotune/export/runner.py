"""Runner: the process that runs an exported model as a user would, from picture files to probabilities."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.data.decode import crop_square, decode_image
from autotune.export.bundle import Run
from autotune.export.inference import InferenceJob, InferenceResult

N_TIMED_ON_ONE_THREAD = 100  # pictures


def main(job_file: Path, result_file: Path) -> None:
    """Read a pickled InferenceJob, run it and write the pickled InferenceResult."""
    job: InferenceJob = pickle.loads(job_file.read_bytes())
    probabilities, all_threads = _classify(job, job.format.load(job.model, 0), job.pictures)
    peak = _peak_bytes()
    _, one_thread = _classify(job, job.format.load(job.model, 1), job.pictures[:N_TIMED_ON_ONE_THREAD])
    result_file.write_bytes(pickle.dumps(InferenceResult(probabilities, all_threads, one_thread, peak)))


def _classify(job: InferenceJob, run: Run, pictures: Sequence[Path]) -> tuple[NDArray[np.float32], float]:
    """Return probabilities (N, C) and the milliseconds of the median picture."""
    rows, seconds = [], []
    for picture in pictures:
        start = time.perf_counter()
        square = crop_square(decode_image(picture), job.pixels, job.interpolation)
        rows.append(run(square[None]))
        seconds.append(time.perf_counter() - start)
    return np.concatenate(rows), 1000 * float(np.median(seconds))


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
