"""Measure what the engines cost: seconds to the first epoch, and what a trial and an epoch take beside no engine.

    python benchmarks/engines.py [--trials 20] [--epochs 41]

The network is tiny, so that little is measured but the engine. The same trials run in this process, and on one and two
workers of each engine. An epoch's cost is that of a trial of many epochs minus that of one epoch, divided by the other
epochs; a trial's cost is the rest. Ray is started on this machine; the time for that is told apart.

Targets: beside the local engine, Ray costs less than 50 ms an epoch and 2 s a trial.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import machine
import made_up
import torch

from autotune.backbones.registry import discover
from autotune.cache.pixels import pixel_rows
from autotune.engines.base import Engine, PixelSet, TrialTask
from autotune.engines.local import LocalEngine, local_devices, warm_up
from autotune.search.candidates import select_backbones
from autotune.search.plan import build_context, make_plan
from autotune.search.settings import read_settings
from autotune.training.context import LoadedBackbones, TrialContext
from autotune.training.lightning.trainer import quiet_lightning
from autotune.training.outcome import Epoch, TrialOutcome
from autotune.training.params import Params
from autotune.training.trial import run_trial

TINY = '''"""Tiny: one layer."""

from torch import nn

from autotune import backbone


@backbone(pixels=8, features=8, from_scratch=True)
def tiny(pretrained):
    return nn.Sequential(nn.Sequential(nn.Flatten(1), nn.Linear(192, 8)))
'''
N_TRAIN, N_REST = 60, 20
PARAMS = Params("tiny", 1, 8, 1e-5, 1e-3, "triangular", 0.0, 0.0, "adamw", 32, 0.0, 0.0, 0.0)
MOST_EPOCH, MOST_TRIAL = 0.05, 2.0  # seconds


@dataclass(frozen=True)
class Run:
    """Seconds: to connect, from there to the first idle place and to the first epoch; then of all trials together."""

    connected: float
    idle: float
    first_epoch: float
    trials: float


def context(folder: Path, epochs: int) -> TrialContext:
    (folder / "plugins").mkdir(exist_ok=True)
    (folder / "plugins" / "tiny.py").write_text(TINY)
    parts = made_up.split(N_TRAIN, N_REST, folder)
    settings = read_settings(None, {"backbone": ["tiny"], "epochs": epochs, "patience": epochs, "gap": 1.0})
    chosen = select_backbones(settings, discover([folder / "plugins"]), None, "cpu", parts.side, print)
    found = build_context(make_plan(settings, parts, chosen))
    rows = pixel_rows(8, "bilinear")
    if missing := rows.missing(found.pool.digests):
        made_up.write_random(rows, missing)
    return found


def in_process(context: TrialContext, n_trials: int, scratch: Path) -> float:
    backbones = LoadedBackbones(context)
    torch.set_num_threads(context.threads)
    with quiet_lightning():
        run_trial(backbones, n_trials, PARAMS, {}, scratch, made_up.Reporter())
        start = time.perf_counter()
        for number in range(n_trials):
            run_trial(backbones, number, PARAMS, {}, scratch, made_up.Reporter())
        return time.perf_counter() - start


def on_engine(open_engine: Callable[[], Engine], context: TrialContext, n_trials: int) -> Run:
    """Run one trial on each place, then all others; a place takes the next trial as soon as it is idle."""
    begin = time.perf_counter()
    engine = open_engine()
    connected = time.perf_counter()
    idle = epoch = 0.0
    with engine:
        engine.configure(context)
        engine.preload([PixelSet(8, "bilinear", context.pool.digests)])
        while not engine.idle:
            list(engine.events())
        idle = time.perf_counter()
        for number, n in ((n_trials, engine.n_places), (0, n_trials)):
            while len(engine.idle) < engine.n_places:
                list(engine.events())
            start = time.perf_counter()
            given, ended = 0, 0
            while ended < n:
                for place in engine.idle[: n - given]:
                    place.give(TrialTask(number + given, PARAMS), {})
                    given += 1
                for place, _, message in engine.events():
                    if isinstance(message, Epoch):
                        epoch = epoch or time.perf_counter()
                        place.answer(None)
                    else:
                        assert isinstance(message, TrialOutcome), message
                        ended += 1
        end = time.perf_counter()
    return Run(connected - begin, idle - connected, epoch - connected, end - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=41)
    options = parser.parse_args()
    warm_up()
    print(machine.line(f"{options.trials} trials of 1 and of {options.epochs} epochs"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["AUTOTUNE_CACHE"] = str(folder / "cache")
        contexts = [context(folder, epochs) for epochs in (1, options.epochs)]
        costs = {"no engine": told("no engine", [in_process(one, options.trials, folder) for one in contexts], options)}
        for label, opened in engines(folder).items():
            runs = [on_engine(opened, one, options.trials) for one in contexts]
            costs[label] = told(label, [run.trials for run in runs], options, runs[1])
    (trial, epoch), (base_trial, base_epoch) = costs["ray, 1 worker"], costs["local, 1 worker"]
    print(f"ray, an epoch, seconds over local: {machine.verdict(epoch - base_epoch, MOST_EPOCH, at_least=False)}")
    print(f"ray, a trial, seconds over local: {machine.verdict(trial - base_trial, MOST_TRIAL, at_least=False)}")


def engines(folder: Path) -> dict[str, Callable[[], Engine]]:
    from autotune.engines.ray import RayEngine
    from autotune.engines.ray_cluster import connect

    def local(n: int) -> Callable[[], Engine]:
        return lambda: LocalEngine(local_devices("cpu", n), folder / "study")

    def on_ray(n: int) -> Callable[[], Engine]:
        return lambda: RayEngine(connect(None, "cpu", n, None), folder / "study")

    kinds = {"local": local, "ray": on_ray}
    return {f"{name}, {n} worker" + ("s" if n > 1 else ""): kind(n) for name, kind in kinds.items() for n in (1, 2)}


def told(label: str, seconds: list[float], options: argparse.Namespace, run: Run | None = None) -> tuple[float, float]:
    """Print a row; return the seconds of a trial without its epochs, and of an epoch."""
    short, long = (each / options.trials for each in seconds)
    epoch = (long - short) / (options.epochs - 1)
    started = (
        f"; connected in {run.connected:.1f} s, then idle after {run.idle:.1f} s, first epoch after "
        f"{run.first_epoch:.1f} s" if run else ""
    )  # fmt: skip
    print(f"{label:16} trial {1000 * (short - epoch):6.1f} ms, epoch {1000 * epoch:5.2f} ms{started}", flush=True)
    return short - epoch, epoch


if __name__ == "__main__":
    main()
