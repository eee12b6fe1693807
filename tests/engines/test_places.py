"""The devices of the local engine's places, and what each place gets of them."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import write_digits
from small_trials import trial_context, trial_plan

from autotune.engines.local import LocalEngine, call_in_process, local_devices
from autotune.search.speed import measure_speeds
from autotune.training import context as contexts
from autotune.training.context import TrialContext


def test_each_gpu_gets_as_many_places_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local_devices("cuda") == ("cuda:0", "cuda:1")
    assert local_devices("cuda", 3) == ("cuda:0", "cuda:1") * 3
    assert local_devices("cuda:1", 2) == ("cuda:1", "cuda:1")
    assert local_devices("cpu") == ("cpu",)
    assert local_devices("mps", 2) == ("mps", "mps")


def test_places_divide_the_threads_and_those_of_a_gpu_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Place:
        device = "cuda:0"
        context: TrialContext | None = None

        def configure(self, context: TrialContext) -> None:
            self.context = context

    monkeypatch.setattr(contexts, "resident_bytes", lambda device: {"cuda:0": 3000, "cuda:1": 5000}[device])
    context = trial_context(write_digits(tmp_path / "digits", classes=2, each=10), backbone=["quick_cnn"], epochs=1)
    place: Any = Place()
    engine = LocalEngine(("cuda:0", "cuda:1", "cuda:0"), tmp_path)
    engine._configure(place, replace(context, threads=12))
    assert (place.context.device, place.context.threads, place.context.resident_bytes) == ("cuda:0", 4, 1500)
    place.device = "cuda:1"
    engine._configure(place, replace(context, threads=2))
    assert (place.context.device, place.context.threads, place.context.resident_bytes) == ("cuda:1", 1, 5000)
    assert (engine.device, engine.n_places, engine.words) == ("cuda", 3, "3 workers on 2 GPUs")


def test_a_function_is_called_in_a_process_that_exits() -> None:
    found = call_in_process(os.getpid)
    assert found != os.getpid()
    assert not psutil.pid_exists(found) or psutil.Process(found).status() == psutil.STATUS_ZOMBIE


def test_a_plan_is_measured_in_another_process(tmp_path: Path) -> None:
    plan = trial_plan(write_digits(tmp_path / "digits", classes=2, each=20), backbone=["small_cnn"])
    (speed,) = call_in_process(measure_speeds, plan, "cpu").values()
    assert speed.forward > 0
