"""Connecting to a Ray cluster, and what its machines offer to workers."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from autotune.errors import ConfigError, StudyError
from autotune.text import file_size, first_line

AUTO = "auto"  # the address of the cluster that this machine is a part of
SECONDS_TO_ANSWER = 5.0
LEAST_OBJECT_STORE = 2**27  # bytes: two chunks of pictures, a checkpoint, and as much again
SHOWN = ("CPU", "GPU")

Resources = Mapping[str, float]


@dataclass(frozen=True)
class Cluster:
    """Where workers run. cpus, gpus: of each worker. is_ours: whether the connection was made for this search."""

    device: str
    n_places: int
    cpus: int
    gpus: float
    is_ours: bool

    def machines(self) -> list[tuple[str, Resources]]:
        """Return the names and the resources of the machines that are alive."""
        return [(str(node["NodeManagerHostname"]), node["Resources"]) for node in _alive()]

    def disconnect(self) -> None:
        if self.is_ours:
            ray.shutdown()


def connect(address: str | None, device: str, workers: int | None, gpus_per_trial: float | None) -> Cluster:
    """Connect to a cluster, and divide its machines among workers. address: None starts Ray on this machine.

    Raises StudyError if there is none at the address or it is unsuitable, ConfigError for impossible wishes.
    """
    if device not in (AUTO, "cpu", "cuda"):
        raise ConfigError(f"Ray chooses the devices; {device} cannot be asked for.", "Choose from: auto, cpu, cuda.")
    if gpus_per_trial is not None and not 0 < gpus_per_trial <= 1:
        raise ConfigError(f"A trial cannot use {gpus_per_trial:g} GPUs.", "Give --gpus-per-trial a share, or 1.")
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(address or os.environ.get("RAY_ADDRESS"))
    try:
        return _divided(device, workers, gpus_per_trial or 1.0, is_ours)
    except BaseException:  # also Ctrl-C: the process may go on, in a notebook
        if is_ours:
            ray.shutdown()
        raise


def _connect(address: str | None) -> None:
    if address is not None and address != AUTO:
        _check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here reports nothing to anyone
    options = {"address": address} if address else {"include_dashboard": False}
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (AuthenticationError, ConnectionError) as error:
        if isinstance(error, ConnectionError) and address in (None, AUTO):
            raise _no_cluster(AUTO) from error
        raise StudyError(  # the address has answered before
            f"The Ray cluster at {address} refuses the connection, or none is there: {first_line(error)}",
            "Check the address; if the cluster wants a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN.",
        ) from error
    except (RuntimeError, ValueError) as error:  # Ray raises them for other versions of itself and of Python
        raise StudyError(
            f"Ray cannot be used: {' '.join(str(error).split())}",
            "Install the same versions of Python and Ray on all machines of the cluster.",
        ) from error


def _check_address(address: str) -> None:
    """Raise StudyError unless something listens: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        raise ConfigError(
            f"{address!r} is not the address of a Ray cluster.",
            "Write HOST:PORT, as `ray start --head` prints it, or auto on a machine of the cluster.",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address) from error


def _no_cluster(address: str) -> StudyError:
    where = "this machine is a part of" if address == AUTO else f"answers at {address}"
    return StudyError(
        f"There is no Ray cluster that {where}.",
        "Start one with `ray start --head`, or leave out --address to use this machine alone.",
    )


def _divided(device: str, workers: int | None, share: float, is_ours: bool) -> Cluster:
    """Return the number of workers, and the CPUs and the share of a GPU of each."""
    nodes = [node["Resources"] for node in _alive()]
    _refuse_small_object_store(nodes)
    with_gpu = [node for node in nodes if device != "cpu" and node.get("GPU", 0) >= share]
    if with_gpu or device == "cuda":
        on_each = [math.floor(node["GPU"] / share) for node in with_gpu]
        cpus = [int(node.get("CPU", 0)) // n for node, n in zip(with_gpu, on_each, strict=True)]
        return Cluster("cuda", workers or max(1, sum(on_each)), max(1, min(cpus, default=1)), share, is_ours)
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    n = workers or max(1, len(cpus))
    on_each_machine = math.ceil(n / max(1, len(cpus)))
    return Cluster("cpu", n, max(1, min(cpus, default=1) // on_each_machine), 0.0, is_ours)


def _refuse_small_object_store(nodes: Sequence[Resources]) -> None:
    least = min((node.get("object_store_memory", 0.0) for node in nodes), default=0.0)
    if least < LEAST_OBJECT_STORE:
        raise StudyError(
            f"The object store of a machine of the cluster has {file_size(int(least))}; pictures need "
            f"{file_size(LEAST_OBJECT_STORE)}.",
            f"Start Ray there with --object-store-memory {LEAST_OBJECT_STORE}, or more.",
        )


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def resources_of(resources: Resources) -> str:
    """Return CPUs and GPUs in words."""
    named = [f"{resources[kind]:g} {kind}" for kind in SHOWN if resources.get(kind)]
    return " and ".join(named) or "no CPU"
