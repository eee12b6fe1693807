"""A Ray cluster of two nodes on this machine, each with its own cache folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from autotune.engines.ray import RayEngine
from autotune.engines.ray_cluster import connect

OBJECT_STORE = 2**28  # bytes
WORKER = "ray::RayWorker"  # the title of a worker's process


@dataclass
class TwoNodes:
    """The cluster's address, its second node, and the nodes' cache folders."""

    address: str
    second: Any
    caches: tuple[Path, Path]
    cluster: Cluster

    def engine(self, n_places: int, folder: Path) -> RayEngine:
        return RayEngine(connect(self.address, "cpu", n_places, None), folder)

    def lose_second(self) -> None:
        """Kill the second node, with all that runs on it."""
        self.cluster.remove_node(self.second, allow_graceful=False)


@contextmanager
def two_nodes(folder: Path, n_cpus: int = os.cpu_count() or 1) -> Iterator[TwoNodes]:
    """Start a cluster whose nodes keep their caches in this folder. n_cpus: of each, whatever the machine has."""
    folder.mkdir(parents=True, exist_ok=True)
    caches = folder / "first", folder / "second"
    options: dict[str, Any] = {"num_cpus": n_cpus, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    cluster = Cluster()
    try:
        _, second = (cluster.add_node(**options, env_vars={"AUTOTUNE_CACHE": str(cache)}) for cache in caches)
        yield TwoNodes(cluster.address, second, caches, cluster)
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def ray_workers() -> list[psutil.Process]:
    """Return the workers of the clusters that this process has started."""
    below = psutil.Process().children(recursive=True)
    return [one for one in below if _title(one).startswith(WORKER)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""
