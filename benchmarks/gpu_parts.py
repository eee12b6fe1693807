"""Parts of benchmarks/gpu.py that run in its own process: the feature cache, trials, and bare loops beside them."""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import bare
import made_up
import numpy as np
import torch
from gpu_bench import (
    BARE_BATCH,
    CUDA,
    DEVICE,
    FILL,
    LAUNCHES,
    NOT_MEASURED,
    TRAIN,
    TRAIN_HEAD,
    Bench,
    Busy,
    Trials,
    empty_cache,
    forward_rate,
    matmul,
    matmul_precision,
    observed,
    relative_error,
)

from autotune.data.split import Split
from autotune.training.context import LoadedBackbones
from autotune.training.outcome import Epoch
from autotune.training.restore import network_from_checkpoint


def agree(bench: Bench) -> None:
    """Compare the GPU with the CPU, and a trial with itself."""
    few = made_up.split(24, 8, bench.root)
    for name in bench.names:
        _agree_rows(bench, name, few)
    name = bench.names[0]
    for depth in (2, None):
        runs = []
        for _ in range(2):
            trials, reporter = replace(bench.trials(name, depth, 2, few), batch_size=8), made_up.Reporter()
            done = trials.run(0, reporter)
            runs.append(([(row.loss, row.log_loss) for row in reporter.rows], done.checkpoint))
        same = {"curve": runs[0][0] == runs[1][0], "weights": runs[0][1] == runs[1][1]}
        bench.table.row("agree", f"{trials.label}, twice", same_bits=same, log_loss=runs[0][0][-1][1])
    assert done.checkpoint
    squares = np.random.default_rng(1).integers(0, 256, (32, 3, bench.pixels, bench.pixels), np.uint8)
    answers = []
    for device in ("cpu", str(trials.backbones.device)):
        context = trials.backbones.context.on(device, trials.backbones.context.threads, 1.0)
        restored = network_from_checkpoint(LoadedBackbones(context), trials.params, done.checkpoint, Path("trial"))
        answers.append(restored.logits(squares).numpy())
    same_class = float(np.mean(answers[0].argmax(1) == answers[1].argmax(1)))
    error = relative_error(answers[1], answers[0])
    bench.table.row("agree", f"{name}, answers, GPU and CPU", error=error, same_class=same_class)


def _agree_rows(bench: Bench, name: str, parts: Split) -> None:
    """Print the relative error of cached features (last cut) on the GPU, for view 0 and the strongest one."""
    context, as_is = bench.context(name, parts), matmul_precision()
    digests, found = context.pool.digests, {}
    for device, precision in (("cpu", "highest"), *((context.device, one) for one in ("highest", "high"))):
        with empty_cache(bench.root), matmul(precision):
            cache = LoadedBackbones(context.on(device, context.threads, 1.0)).feature_cache(name, bench.pixels)
            cache.fill({0: digests, 4: digests}, lambda *_: None)
            for view in (0, 4):
                rows = cache.rows(max(cache.cuts), view)
                found[device == context.device and CUDA, precision, view] = rows.take(rows.places(digests))
    for (on_gpu, precision, view), rows_ in found.items():
        if on_gpu or not CUDA:
            error = relative_error(rows_, found[False, "highest", view])
            used = "yes" if precision == as_is else "no"
            bench.table.row("agree", f"{name}, rows of view {view}, {precision}", error=error, as_workers_set=used)


def ceiling(bench: Bench) -> None:
    """Time forward passes alone. tf32 is float32 with `high` products."""
    kinds = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    for name in bench.names:
        chain = LoadedBackbones(bench.context(name)).chain(name).to(DEVICE).to(memory_format=torch.channels_last)
        for batch in (2,) if bench.tiny else (32, 128, 256):
            found = {}
            for kind, dtype in kinds.items():
                with matmul("highest" if kind == "fp32" else "high", deterministic=False):
                    n = 1 if bench.tiny else max(5, 1024 // batch)
                    found[kind] = forward_rate(chain, batch, bench.pixels, dtype, n)
            bench.table.row("ceiling", f"{name}, batches of {batch}", pictures_per_s=found)


def fill(bench: Bench) -> None:
    """Fill an empty feature cache with the clean view, then with an augmented one, at one cut and at a study's cuts."""
    for name in bench.names:
        whole = bench.context(name)
        chain, size = LoadedBackbones(whole).chain(name), bench.pixels
        copy = LoadedBackbones(whole).chain(name).to(DEVICE).to(memory_format=torch.channels_last)
        for cuts in dict.fromkeys([(len(chain),), tuple(whole.cuts[name, size])]):
            with empty_cache(bench.root):
                cache = LoadedBackbones(replace(whole, cuts={(name, size): cuts})).feature_cache(name, size)
                # A study's cuts of a transformer take 3 MB a picture.
                digests = whole.train.digests[: bench.n if len(cuts) <= 2 else -(-bench.n // 4)]
                with observed() as seen:
                    cache.fill({0: digests[: len(digests) // 8]}, lambda *_: None)
                kind = seen.get("precision", torch.float32)
                n = 1 if bench.tiny else 8
                with matmul(matmul_precision(), deterministic=False):
                    alone = forward_rate(copy, 4 if bench.tiny else BARE_BATCH, size, kind, n)
                for view in (0, 2):
                    left = len(cache.rows(max(cuts), view).missing(digests))
                    with Busy() as busy:
                        start = time.perf_counter()
                        cache.fill({view: digests}, lambda *_: None)
                        rate = left / (time.perf_counter() - start)
                    bench.table.row(
                        "fill", f"{name}, cuts {', '.join(map(str, cuts))}, view {view}", rate / alone, FILL,
                        pictures_per_s=rate, bare=alone, computed_in=str(kind).removeprefix("torch."),
                        batch=seen.get("batch", "unknown"), **busy.facts,
                    )  # fmt: skip
        del copy


class StepClock(made_up.Reporter):
    """Measures the seconds of the training steps of each epoch, without the first step and without the evaluation.

    `check_time` is called after every batch, those of the evaluation last.
    """

    def __init__(self, n_steps: int) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._n_steps = n_steps
        self._batches = 0
        self._first = 0.0

    def check_time(self) -> None:
        self._batches += 1
        if self._batches in (1, self._n_steps):
            bare.synchronise(DEVICE)
            now = time.perf_counter()
            if self._batches == 1:
                self._first = now
            if self._batches == self._n_steps:
                self.seconds.append(now - self._first)

    def epoch(self, row: Epoch) -> None:
        super().epoch(row)
        self._batches = 0


def train(bench: Bench) -> None:
    """Train trials, and the same networks in a bare loop, on data in memory."""
    for name in bench.names:
        for depth in (0, 2, None):
            epochs = 3 if depth is None or bench.tiny else 7
            trials = bench.trials(name, depth, epochs)
            alone = bare_rate(trials, 2 if bench.tiny else 40 if depth is None else 100)
            clock = StepClock(bench.n_steps)
            bench.trials(name, depth, 1).run(0, made_up.Reporter())  # warm-up, which also fills the feature cache
            if CUDA:
                torch.cuda.reset_peak_memory_stats()
            with Busy() as busy:
                trials.run(1, clock)
            later = [row.seconds for row in clock.rows[1:]]
            rate = bench.n * len(later) / sum(later)
            # Steps of a head are reported several at a time.
            mean = float(np.mean(clock.seconds[1:])) if trials.depth and clock.seconds[1:] else math.nan
            steps = bench.batch_size * (bench.n_steps - 1) / mean
            peak = {"peak_MiB": torch.cuda.max_memory_allocated() / 2**20} if CUDA else {}
            bench.table.row(
                "train", trials.label, rate / alone, TRAIN if trials.depth else TRAIN_HEAD, pictures_per_s=rate,
                steps_only=steps, bare=alone, steps_over_bare=steps / alone, **peak, **busy.facts,
            )  # fmt: skip


def bare_rate(trials: Trials, n_steps: int) -> float:
    """Return pictures per second of a bare training loop."""
    context, chain = trials.backbones.context, trials.backbones.chain(trials.name)
    traits = context.backbones[trials.name][0].traits
    features = trials.backbones.profile(trials.name, trials.pixels).features
    with matmul(matmul_precision(), deterministic=False):
        tail = bare.Tail(chain, trials.depth, features, context.classes, "adamw", traits, DEVICE)
        x = bare.below(chain, len(chain) - trials.depth, trials.batch_size, trials.pixels, DEVICE)
        return trials.batch_size / tail.step_seconds(x, n_steps)


def launches(bench: Bench) -> None:
    """Count the calls to CUDA of an epoch, its evaluation included, and the lines that wait for the GPU."""
    from torch.profiler import ProfilerActivity, profile

    for name in bench.names:
        for depth in (0, 2, None):
            trials = bench.trials(name, depth, 1)
            trials.run(0, made_up.Reporter())  # warm-up
            with bench.table.guarded("launches", trials.label):
                with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if CUDA else [])]) as seen:
                    trials.run(1, made_up.Reporter())
                counts = Counter({e.key: e.count for e in seen.key_averages() if LAUNCHES.match(e.key)})
                most = {key: round(count / bench.n_steps, 1) for key, count in counts.most_common(12)}
                bench.table.row("launches", f"{trials.label}, {bench.n_steps} steps", per_step=most)
            if CUDA:
                with bench.table.guarded("launches", f"{trials.label}, waits"):
                    waits = waiting_lines(trials)
                    bench.table.row("launches", f"{trials.label}, waits", per_epoch=dict(waits.most_common(12)))


def waiting_lines(trials: Trials) -> Counter[str]:
    """Return how often each line waits for the GPU in an epoch. Filters that would hide the warnings have no effect."""
    ignore = mock.Mock()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with mock.patch.multiple(warnings, simplefilter=ignore, filterwarnings=ignore):
            torch.cuda.set_sync_debug_mode("warn")
            try:
                trials.run(2, made_up.Reporter())
            finally:
                torch.cuda.set_sync_debug_mode("default")
    return Counter(f"{Path(one.filename).name}:{one.lineno}" for one in found if "synchroniz" in str(one.message))


def memory(bench: Bench) -> None:
    """Show what five trials in one process leave allocated, and their seconds beside the epochs."""
    left = [round(torch.cuda.memory_allocated() / 2**20)] if CUDA else []
    shared = bench.trials(bench.names[-1], 2, 2)  # one set of loaded backbones for all trials, as in a worker
    n_stages = len(shared.backbones.chain(shared.name))
    for number, depth in enumerate((0, 2, n_stages, 2, 0)):
        trials = replace(shared, depth=depth)
        reporter = made_up.Reporter()
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
        done = trials.run(number, reporter)
        beside = done.seconds - done.cache_seconds - sum(row.seconds for row in reporter.rows)
        facts: dict[str, Any] = {"seconds": done.seconds, "beside_epochs": beside, "cache": done.cache_seconds}
        if CUDA:
            left.append(round(torch.cuda.memory_allocated() / 2**20))
            facts |= {"allocated_after_MiB": left[-1], "peak_MiB": torch.cuda.max_memory_allocated() / 2**20}
        bench.table.row("memory", f"trial {number}: {trials.label}", **facts)
    bench.table.row("memory", "allocated before, and after each trial", MiB=left or NOT_MEASURED)
