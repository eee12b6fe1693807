"""What Python's garbage collection costs a process that loads torch: median of ten whole processes, in turn.

    python benchmarks/process.py

Each imports all that a search needs and ends; with Python's own thresholds, as autotune's commands and workers do, and
without any collection, as a lower bound.
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
    "as Python does": IMPORT,
    "as autotune does": (
        f"from autotune.garbage import collected_less_often\nwith collected_less_often():\n    {IMPORT}"
    ),
    "no collection": f"import gc, os\ngc.disable()\n{IMPORT}\nos._exit(0)",
}


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main() -> None:
    for code in CODE.values():
        seconds(code)  # once, for the files to be in memory
    taken: dict[str, list[float]] = {name: [] for name in CODE}
    for _ in range(RUNS):
        for name, code in CODE.items():
            taken[name].append(seconds(code))
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, n = {RUNS}")
    base = statistics.median(taken["as Python does"])
    for name, found in taken.items():
        median = statistics.median(found)
        print(f"{name:16}  {median:5.2f} s ({min(found):.2f} to {max(found):.2f}), {median / base:.2f} of Python's own")


if __name__ == "__main__":
    main()
