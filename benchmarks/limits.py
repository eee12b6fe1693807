"""Run whole studies of unusual size or content, and show what happened: time, memory, the result or the error.

    python benchmarks/limits.py [CASE...]

Each case writes its pictures into a temporary folder and runs `data`, `search`, `status`, `report` and `export` on
them. The case `trials` runs 1,000 trials and shows the driver's processor time per trial, by hundreds.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import machine
import numpy as np
from PIL import Image

from autotune.study.listener import StudyListener
from autotune.study.request import SearchRequest
from autotune.study.run import run_study
from autotune.study.storage.rows import BackboneFacts, TrialRow

QUICK = ("--trials", "2", "--epochs", "1", "--backbone", "small_cnn", "--pixels", "32")
Pictures = Iterator[tuple[str, np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]]]


def coloured(labels: list[str], each: int, side: int = 32) -> Pictures:
    """Yield `each` noisy pictures of one colour per label."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 200, (len(labels), 3))
    for label, colour in zip(labels, colours, strict=True):
        for _ in range(each):
            yield label, (colour + rng.integers(0, 56, (side, side, 3))).astype(np.uint8)


def equal() -> Pictures:
    """Yield the same picture, 100 times in two classes."""
    for number in range(100):
        yield str(number % 2), np.full((32, 32, 3), 90, np.uint8)


CASES: dict[str, tuple[str, Callable[[], Pictures]]] = {
    "classes": ("1,000 classes of 12 pictures", lambda: coloured([f"class {i}" for i in range(1000)], 12)),
    "pictures": ("200,000 pictures of 8 x 8 pixels", lambda: coloured([str(i) for i in range(10)], 20_000, side=8)),
    "few": ("10 classes of 2 pictures", lambda: coloured([str(i) for i in range(10)], 2)),
    "equal": ("100 equal pictures in two classes", equal),
    "labels": ("labels: numbers, emoji, 200 letters", lambda: coloured(["7", "😀", "x" * 200, "3.14"], 25)),
}


def write(folder: Path, pictures: Pictures) -> None:
    for number, (label, pixels) in enumerate(pictures):
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / label / f"{number}.png")


def attempt(case: str) -> None:
    """Run all commands on one case, and print a line for each."""
    title, pictures = CASES[case]
    print(f"{title}:")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "photos", pictures())
        commands = [("data", "photos"), ("search", "photos", *QUICK), ("status", "photos"), ("report", "photos")]
        for words in (*commands, ("export", "photos")):
            start = time.perf_counter()
            command = [sys.executable, "-m", "autotune", *words]
            around = {**os.environ, "AUTOTUNE_CACHE": str(folder / "cache")}
            done = subprocess.run(command, cwd=folder, env=around, capture_output=True, text=True, check=False)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
            result = "done" if done.returncode == 0 else " / ".join(done.stderr.strip().splitlines()[-2:])
            seconds = time.perf_counter() - start
            print(f"  {words[0]:7} {seconds:7.1f} s, largest process so far {peak:5.2f} GB: {result}", flush=True)
            if done.returncode and words[0] == "search":
                return


class DriverTime(StudyListener):
    """Keeps the processor time of this process, which is the driver, whenever a trial finishes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def finished(self, row: TrialRow, backbone: BackboneFacts, is_best: bool) -> None:
        self.seconds.append(time.process_time())


def run_trials(n: int) -> None:
    """Run n trials of the smallest kind, and print the driver's processor time per trial."""
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        os.environ["AUTOTUNE_CACHE"] = str(Path(name) / "cache")
        write(Path("photos"), coloured(["a", "b"], 30))
        listener = DriverTime()
        flags = {"epochs": 1, "backbone": ["small_cnn"], "pixels": [32]}
        run_study(SearchRequest(data=Path("photos"), trials=n, flags=flags, device="cpu"), listener)
    costs = np.diff(listener.seconds)
    print(f"{n:,} trials of one epoch: processor time of the driver per trial, median of each hundred")
    for first in range(0, len(costs), 100):
        some = costs[first : first + 100]
        print(f"  {first:5} to {first + len(some):5}: {1000 * statistics.median(some):6.1f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of: {', '.join(CASES)}, trials; default: all")
    chosen = parser.parse_args().cases or [*CASES, "trials"]
    print(machine.line("1 per case"))
    for case in chosen:
        if case == "trials":
            run_trials(1000)
        else:
            attempt(case)


if __name__ == "__main__":
    main()
