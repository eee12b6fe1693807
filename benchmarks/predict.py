"""Compare `autotune predict` on a bundle with decoding plus the bare network, and time a single prediction.

    python benchmarks/predict.py BUNDLE PICTURES [REPEATS]

Medians of REPEATS interleaved runs, 5 by default.
"""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

from autotune.data.decode import crop_square
from autotune.data.picture import read_picture
from autotune.export import bundle
from autotune.export.predict import find_pictures
from autotune.formats.onnx_session import OnnxSession


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    place, folder = Path(sys.argv[1]), sys.argv[2]
    repeats = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    files = find_pictures([folder])
    one = bundle.open_bundle(place)
    session = OnnxSession(one.model)

    def square(file: Path) -> np.ndarray:
        return crop_square(read_picture(file), one.pixels, one.interpolation)

    def decode() -> list[np.ndarray]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(square, files))

    squares = np.stack(decode())
    network = lambda: [session.run(squares[i : i + 32]) for i in range(0, len(files), 32)]  # noqa: E731
    command = lambda names: subprocess.run(  # noqa: E731
        [sys.executable, "-m", "autotune", "predict", str(place), *names, "--json"], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    rows: dict[str, list[float]] = {"decoding": [], "network": [], "command": [], "first": []}
    for _ in range(repeats):  # interleaved, so other load on the machine affects all equally
        rows["decoding"].append(seconds(decode))
        rows["network"].append(seconds(network))
        rows["command"].append(seconds(partial(command, [folder])))
        rows["first"].append(seconds(partial(command, [str(files[0])])))
    middle = {name: statistics.median(found) for name, found in rows.items()}
    processor = next((line.split(": ")[1] for line in open("/proc/cpuinfo") if "model name" in line), "?").strip()  # noqa: SIM115
    print(f"{os.cpu_count()} x {processor}, {platform.system()}, onnxruntime {onnxruntime.__version__}, n = {repeats}")
    size = one.model.stat().st_size / 1e6
    print(f"{len(files)} pictures at {one.pixels} pixels, {size:.1f} MB; medians, all threads")
    for name, words in (
        ("decoding", "decoding only"), ("network", "network only, batches of 32"),
        ("command", "autotune predict, whole process"), ("first", "autotune predict, one picture"),
    ):  # fmt: skip
        print(f"{words:37} {middle[name]:7.2f} s   ({min(rows[name]):.2f} to {max(rows[name]):.2f})")
    work = middle["decoding"] + middle["network"]
    print(f"{'whole process over decoding + network':37} {middle['command'] / work:7.2f}")


if __name__ == "__main__":
    main()
