"""Compare the estimated time of a study with the time it takes, and a time limit with the time it is kept in.

    python benchmarks/estimate.py PHOTOS... [--trials 50] [--limits 60 300]

For each folder of photos, with an empty cache: a dry run, then a whole study; its estimates of the time left before the
first trial and after 5 and 20 trials are divided by what was left. Then, for each limit, a study with an empty cache
and `--timeout`; the time is that of the whole command, with the start of Python. Targets: a factor of 1.5 after five
trials, and 10 % or 15 s more than the limit, whichever is more. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import line

AFTER = (0, 5, 20)  # trials

STUDY = """
import sys, time
from pathlib import Path
from autotune.study.listener import StudyListener
from autotune.study.request import SearchRequest
from autotune.study.run import run_study

class Estimates(StudyListener):
    def __init__(self):
        self.record, self.seen = None, {}
    def opened(self, folder, metric, record):
        self.record = record
    def estimated(self, seconds):
        if not self.record.folds():
            self.seen.setdefault(self.record.n_trials(), (time.monotonic(), seconds))

if __name__ == "__main__":
    listener = Estimates()
    run_study(SearchRequest(data=Path(sys.argv[1]), name="s", trials=int(sys.argv[2]), device="cpu"), listener)
    end = time.monotonic()
    for n, (at, seconds) in listener.seen.items():
        print(n, seconds, end - at)
"""


def run(words: list[str], folder: Path) -> str:
    """Run a Python command in a folder of its own, with an empty cache, and return what it prints."""
    folder.mkdir(parents=True)
    environment = {**os.environ, "AUTOTUNE_CACHE": str(folder / "cache")}
    command = [sys.executable, *words]
    return subprocess.run(command, check=True, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE).stdout


def measure_estimates(photos: Path, n_trials: int, folder: Path) -> None:
    words = ["-m", "autotune", "search", str(photos), "--trials", str(n_trials), "--device", "cpu", "--dry-run"]
    planned = json.loads(run([*words, "--json"], folder / "dry"))["seconds"]
    script = folder / "study.py"
    script.write_text(STUDY, encoding="utf-8")
    start = time.monotonic()
    printed = run([str(script), str(photos), str(n_trials)], folder / "whole")
    taken = time.monotonic() - start
    print(f"{photos.name}, {n_trials} trials, took {taken:.0f} s")
    print(f"  dry run             said {planned:5.0f} s, took {taken:5.0f} s, {planned / taken:.2f} x")
    for n, said, left in ((int(n), float(said), float(left)) for n, said, left in map(str.split, printed.splitlines())):
        if n in AFTER:
            print(f"  after {n:2d} trials     said {said:5.0f} s, took {left:5.0f} s, {said / left:.2f} x", flush=True)


def measure_limit(photos: Path, limit: float, folder: Path) -> None:
    words = ["-m", "autotune", "search", str(photos), "--timeout", f"{limit:g}", "--device", "cpu", "--json"]
    start = time.monotonic()
    found = json.loads(run(words, folder / f"limit-{limit:g}"))
    taken = time.monotonic() - start
    over = taken - limit
    is_kept = "kept" if over <= max(0.1 * limit, 15) else "NOT KEPT"
    print(
        f"  --timeout {limit:4.0f}      took {taken:5.0f} s ({over:+.0f} s), {is_kept}; {found['trials']['total']} "
        f"trials; {found['final']['reason']}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--limits", type=float, nargs="*", default=[60, 300])
    given = parser.parse_args()
    print(line("1 study per folder and limit"))
    with tempfile.TemporaryDirectory() as name:
        for photos in given.photos:
            folder = Path(name) / photos.name
            folder.mkdir()
            measure_estimates(photos.resolve(), given.trials, folder)
            for limit in given.limits:
                measure_limit(photos.resolve(), limit, folder)


if __name__ == "__main__":
    main()
