"""Compare the startup time of autotune with that of a bare Typer app of two commands: medians of ten processes.

    python benchmarks/startup.py

Targets: `autotune --help` takes at most 1.3 times as long as the bare app's `--help`, `autotune plugins` at most twice.
"""

import importlib.metadata
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 10
BARE = """
import typer

app = typer.Typer()


@app.command()
def one() -> None: ...


@app.command()
def two() -> None: ...


app()
"""


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    bare = Path(tempfile.mkdtemp()) / "bare.py"
    bare.write_text(BARE)
    own = str(Path(sys.executable).with_name("autotune"))
    commands = {
        "bare --help": [sys.executable, str(bare), "--help"],
        "autotune --help": [own, "--help"],
        "autotune plugins": [own, "plugins"],
    }
    for command in commands.values():
        seconds(command)  # warm-up, to load the files into memory
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            taken[name].append(seconds(command))
    base = statistics.median(taken["bare --help"])
    versions = f"Python {platform.python_version()}, typer {importlib.metadata.version('typer')}"
    print(f"{platform.platform()}, {versions}, n = {RUNS}")
    for name, found in taken.items():
        median = statistics.median(found)
        print(f"{name:18} {1000 * median:6.0f} ms  {median / base:.2f} x  ({min(found):.3f} to {max(found):.3f} s)")


if __name__ == "__main__":
    main()
