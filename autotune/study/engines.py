"""The engines that a search can run on, by name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.engines.base import Engine
from autotune.engines.local import call_in_process
from autotune.errors import ConfigError, did_you_mean
from autotune.study.request import LOCAL, SearchRequest

if TYPE_CHECKING:
    from autotune.search.plan import Plan
    from autotune.search.speed import Speeds

RAY = "ray"
ENGINES = (LOCAL, RAY)


def check_engine(request: SearchRequest) -> None:
    """Raise ConfigError if there is no such engine, its package is missing, or an option belongs to another one."""
    if request.engine not in ENGINES:
        raise ConfigError(f"No engine named {request.engine!r}.", did_you_mean(request.engine, ENGINES))
    if request.engine == RAY and find_spec("ray") is None:
        raise ConfigError("The engine ray needs Ray, which is not installed.", "pip install 'autotune-vision[ray]'")
    given = {"--address": request.address, "--gpus-per-trial": request.gpus_per_trial}
    for option, value in given.items():
        if value is not None and request.engine != RAY:
            raise ConfigError(f"{option} belongs to the engine ray.", f"Add --engine {RAY}, or leave out {option}.")


def open_engine(request: SearchRequest, folder: Path) -> Engine:
    """Return the engine of a request, before its workers are started. folder: of the study. Raises AutotuneError."""
    if request.engine == RAY:
        from autotune.engines.ray import RayEngine
        from autotune.engines.ray_cluster import connect

        return RayEngine(connect(request.address, request.device, request.workers, request.gpus_per_trial), folder)
    from autotune.engines.local import LocalEngine, local_devices
    from autotune.search.plan import pick_device

    return LocalEngine(local_devices(pick_device(request.device), request.workers), folder)


def measured_speeds(plan: Plan, device: str) -> Speeds:
    """Measure the speed of every backbone of a plan on the driver's device.

    With CUDA in a process of its own: the driver would otherwise keep its context, some of the GPU's memory, for the
    whole search.
    """
    from autotune.search.speed import measure_speeds

    if device.startswith("cuda"):
        return call_in_process(measure_speeds, plan, device)
    return measure_speeds(plan, device)


def driver_device(request: SearchRequest) -> str:
    """Return the device of the driver's own work, like the test; on a cluster, its machine may have no GPU."""
    from autotune.search.plan import pick_device

    return pick_device("auto" if request.engine == RAY and request.device != "cpu" else request.device)
