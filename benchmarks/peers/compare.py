r"""Compare autotune with fastai, AutoGluon and scikit-learn: the same weights, pictures and processor seconds.

    python -m venv PEERS && PEERS/bin/pip install torch===2.13.0 autogluon.multimodal==1.6.3 fastai==2.8.12
    python benchmarks/selection.py PHOTOS... --work WORK --columns finals --command .venv/bin/autotune \
        --backbone efficientnet_lite0
    python benchmarks/peers/compare.py PHOTOS... --work WORK --python PEERS/bin/python [--seeds 0,1,2] [--runs NAMES]
    python benchmarks/peers/compare.py --work WORK --report

The pictures and the results of autotune's search are those of selection.py: 40 % of the pictures are the user's, and
all models are judged on the others. A peer may take as many processor seconds as autotune's search of the same cell, or
three times as many; without a limit, it takes as many as its own recipe does. Results are appended to
WORK/results.jsonl, and only missing ones are computed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import machine
from selection import SPLIT, Results, Row, compare, keep, label, linked, read_rows

from autotune.backbones.registry import discover
from autotune.backbones.weights import find_weights, load_stages

PEERS = Path(__file__).parent
OURS = "finals"


@dataclass(frozen=True)
class Run:
    """A script of a peer. times: how many times autotune's processor seconds it may take; 0: its own recipe's."""

    script: str
    times: float = 0


RUNS = {
    "scikit-learn": Run("peer_sklearn.py"),
    "fastai, 1 + 5 epochs": Run("peer_fastai.py"),
    "AutoGluon, its defaults": Run("peer_autogluon.py"),
    "fastai, same time": Run("peer_fastai.py", 1),
    "AutoGluon, same time": Run("peer_autogluon.py", 1),
    "fastai, 3 times": Run("peer_fastai.py", 3),
    "AutoGluon, 3 times": Run("peer_autogluon.py", 3),
}


def main() -> None:
    options = parse_options()
    if not options.report:
        weights = options.work / "network.pt"
        write_weights(weights)
        for seed in options.seeds:
            for photos in options.photos:
                for name in options.runs:
                    measure(options, photos.resolve(), seed, name, weights)
    report(read_rows(options.work))


def measure(options: argparse.Namespace, photos: Path, seed: int, name: str, weights: Path) -> None:
    cell = read_rows(options.work)[photos.name, seed]
    if name in cell:
        return
    later: Sequence[str] = cell[SPLIT]["later"]
    run = RUNS[name]
    with tempfile.TemporaryDirectory() as place:
        link_pictures(Path(place), photos, cell[SPLIT])
        limit = run.times * cell[OURS]["cpu"]
        start = time.perf_counter()
        out, cpu = answered(options.python, run, Path(place), weights, seed, limit)
        wall = time.perf_counter() - start
    right = [int(out[str(linked(path))] == label(path)) for path in later]
    result: Row = {"accuracy": float(np.mean(right)), "right": right, "cpu": cpu, "wall": wall, "limit": limit}
    keep(options.work, photos.name, seed, name, result)
    print(f"{photos.name} {seed} {name}: {100 * result['accuracy']:.2f} %, {cpu:.0f} processor seconds", flush=True)


def link_pictures(place: Path, photos: Path, parts: Row) -> None:
    for part in ("user", "later"):
        for path in parts[part]:
            link = place / part / linked(path)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(photos / path)


def answered(
    python: Path, run: Run, place: Path, weights: Path, seed: int, limit: float
) -> tuple[dict[str, str], float]:
    """Run a peer's script; return its labels by path, and its processor seconds with those of its children."""
    answers = place / "answers.json"
    words: list[str | Path] = [python, PEERS / run.script, place, weights, str(seed), str(limit), answers]
    around = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    with (place / "log").open("w") as log:
        child = subprocess.Popen(words, cwd=place, env=around, stdout=log, stderr=log)
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{run.script} failed: {(place / 'log').read_text()[-3000:]}")
    return json.loads(answers.read_text()), used.ru_utime + used.ru_stime


def write_weights(file: Path) -> None:
    """Save autotune's pretrained network under the tensor names of timm's."""
    import timm

    entry = discover().find("efficientnet_lite0")
    tensors = load_stages(entry, find_weights(entry)).state_dict().values()
    names = [name for name in timm.create_model("tf_efficientnet_lite0").state_dict() if "classifier" not in name]
    torch.save(dict(zip(names, tensors, strict=True)), file)


def report(rows: Results) -> None:
    columns = [OURS, *(name for name in RUNS if any(name in cell for cell in rows.values()))]
    rows = {key: cell for key, cell in rows.items() if any(name in cell for name in columns[1:])}
    print(machine.line(f"{len(rows)} cells"))
    print(f"{'':24}" + "".join(f"{f'{name} {seed}':>16}" for name, seed in sorted(rows)) + f"{'cpu, s':>10}")
    for column in columns:
        shown = [
            f"{100 * cell[column]['accuracy']:16.2f}" if column in cell else f"{'-':>16}"
            for _, cell in sorted(rows.items())
        ]
        cpu = np.mean([cell[column]["cpu"] for cell in rows.values() if column in cell])
        print(f"{'autotune' if column == OURS else column:24}{''.join(shown)}{cpu:10.0f}")
    print("Accuracy on later pictures in %. autotune minus a peer in points, with 95 % intervals as in selection.py:")
    for column in columns[1:]:
        print(f"{column:24}{compare(rows, OURS, column)}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path, nargs="*", help="folders of pictures")
    parser.add_argument("--work", type=lambda text: Path(text).resolve(), required=True, help="folder of selection.py")
    parser.add_argument("--python", type=lambda text: Path(text).absolute(), help="the Python of the peers")
    parser.add_argument("--seeds", type=machine.numbers, default=(0, 1, 2))
    parser.add_argument("--runs", type=lambda text: text.split(";"), default=list(RUNS))
    parser.add_argument("--report", action="store_true", help="show the existing results only")
    return parser.parse_args()


if __name__ == "__main__":
    main()
