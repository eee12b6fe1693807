"""Measure the cost of Python's garbage collection in a process that loads torch: medians of ten processes.

    python benchmarks/process.py

Each process imports the modules of a search and exits: with Python's default thresholds, with those of autotune's
commands and workers, and without garbage collection as a lower bound.
"""

import os
import platform
import statistics
import subprocess
import sys
import time

RUNS = 10
IMPORT = "import autotune.study.run"
CODE = {
    "Python's default": IMPORT,
    "autotune": (f"from autotune.garbage import collected_less_often\nwith collected_less_often():\n    {IMPORT}"),
    "no collection": f"import gc, os\ngc.disable()\n{IMPORT}\nos._exit(0)",
}


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main() -> None:
    for code in CODE.values():
        seconds(code)  # warm-up, to load the files into memory
    taken: dict[str, list[float]] = {name: [] for name in CODE}
    for _ in range(RUNS):
        for name, code in CODE.items():
            taken[name].append(seconds(code))
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, n = {RUNS}")
    base = statistics.median(taken["Python's default"])
    for name, found in taken.items():
        median = statistics.median(found)
        print(f"{name:16}  {median:5.2f} s ({min(found):.2f} to {max(found):.2f}), {median / base:.2f} x default")


if __name__ == "__main__":
    main()
