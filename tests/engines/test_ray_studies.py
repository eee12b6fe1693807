"""Whole studies on a Ray cluster of two nodes: results, deaths, and what is refused.

Those that start a cluster run in `make faults`; tests/engines/test_contract.py runs on one in `make test`, too.
"""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from conftest import write_digits
from ray_cluster import TwoNodes, ray_workers, two_nodes
from small_studies import search, without_time
from small_trials import trial_context

from autotune.cache.pixels import pixel_rows
from autotune.engines import ray as engine_of_ray
from autotune.engines import ray_cluster as clusters
from autotune.engines.base import PixelSet
from autotune.engines.ray_node import _kept, versions
from autotune.errors import ConfigError, StudyError
from autotune.study.engines import check_engine
from autotune.study.listener import StudyListener
from autotune.study.request import SearchRequest
from autotune.training.context import TrialContext
from autotune.training.outcome import Epoch

pytestmark = pytest.mark.slow
FLAGS: dict[str, Any] = {"backbone": ["efficientnet_lite0"], "pixels": [64], "depth": [0, 1], "epochs": 2}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("photos") / "digits", classes=3, each=40)


@pytest.fixture(scope="module")
def context(photos: Path) -> TrialContext:
    return trial_context(photos, backbone=["efficientnet_lite0"], pixels=[64], epochs=1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    with two_nodes(tmp_path_factory.mktemp("nodes")) as nodes:
        yield nodes


@pytest.mark.in_make_faults
def test_both_engines_find_the_same_and_no_test_picture_leaves_the_driver(
    here: Path, photos: Path, cluster: TwoNodes
) -> None:
    on_ray: dict[str, Any] = {"engine": "ray", "address": cluster.address, "workers": 1}
    first = search(photos, 2, "ray", flags=FLAGS, **on_ray)
    other = search(photos, 2, "local", flags=FLAGS)
    assert without_time(first) == without_time(other)
    assert first["final"]["how"] == "soup"
    models = [Path(one["final"].pop("checkpoint")).read_bytes() for one in (first, other)]
    assert models[0] == models[1]
    assert first["final"] == other["final"]
    assert first["test"]["value"] == other["test"]["value"]

    with (here / "studies" / "ray" / "manifest.csv").open(newline="", encoding="utf-8") as table:
        hidden = [row["digest"] for row in csv.DictReader(table) if row["part"] == "test"]
    assert hidden
    rows = "pixels/64-bicubic-v1/keys.bin"
    stored = [(cache / rows).read_bytes().hex() for cache in cluster.caches if (cache / rows).is_file()]
    assert stored
    assert not [digest for digest in hidden for each in stored if digest in each]
    assert not [file for cache in cluster.caches for file in cache.rglob("unfinished/*")]


@pytest.mark.in_make_faults
def test_a_killed_driver_takes_its_workers_along_and_the_same_study_goes_on_elsewhere(
    here: Path, photos: Path, cluster: TwoNodes
) -> None:
    toml = here / "study.toml"
    toml.write_text(
        'epochs = 30\npatience = 30\ngap = 1.0\npruner = "none"\nfinal = "trial"\n'
        '[space]\nbackbone = "efficientnet_lite0"\npixels = 64\ndepth = 1\n',
        encoding="utf-8",
    )
    words = ["search", str(photos), "--study", "s", "--trials", "2", "--config", str(toml)]
    driver = subprocess.Popen(
        [sys.executable, "-m", "autotune", *words, "--engine", "ray", "--address", cluster.address, "--workers", "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 60
    while not (logs := list(here.glob("studies/s/logs/trial-*.log"))) and time.monotonic() < end:
        time.sleep(0.2)
    assert logs
    assert ray_workers()
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    end = time.monotonic() + 30
    while ray_workers() and time.monotonic() < end:
        time.sleep(0.2)
    assert not ray_workers()
    found = search(photos, 2, "s", config=toml, flags={"epochs": None, "backbone": None})
    assert found["trials"]["complete"] == 2


def test_an_engine_that_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def wrong(**request: Any) -> str:
        with pytest.raises(ConfigError) as raised:
            check_engine(SearchRequest(**request))
        return str(raised.value)

    assert "Did you mean 'ray'?" in wrong(engine="rai")
    assert "Add --engine ray" in wrong(address="auto")
    assert "Add --engine ray" in wrong(gpus_per_trial=0.5)
    monkeypatch.setattr("autotune.study.engines.find_spec", lambda _: None)
    assert "pip install 'autotune-vision[ray]'" in wrong(engine="ray")


def test_a_cluster_that_is_not_there_is_refused_at_once() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen
        start = time.monotonic()
        with pytest.raises(StudyError, match=r"no Ray cluster that answers at 127\.0\.0\.1:\d+\."):
            clusters.connect(f"127.0.0.1:{held.getsockname()[1]}", "cpu", 1, None)
        assert time.monotonic() - start < 10
    for address in ("ray://somewhere:10001", "somewhere", "somewhere:port"):
        with pytest.raises(ConfigError, match="not the address of a Ray cluster"):
            clusters.connect(address, "cpu", 1, None)
    with pytest.raises(ConfigError, match="cuda:1 cannot be asked for"):
        clusters.connect("auto", "cuda:1", 1, None)
    with pytest.raises(ConfigError, match="cannot use 2 GPUs"):
        clusters.connect("auto", "cuda", 1, 2.0)


@pytest.mark.in_make_faults
def test_a_cluster_without_what_is_needed_is_refused(
    cluster: TwoNodes, context: TrialContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(device: str = "cpu") -> None:
        found = clusters.connect(cluster.address, device, 1, None)
        with engine_of_ray.RayEngine(found, tmp_path) as engine:
            engine.configure(context)
            while not engine.idle:
                list(engine.events())

    with monkeypatch.context() as patched:
        patched.setattr(engine_of_ray, "SECONDS_TO_PLACE", 1.0)
        with pytest.raises(StudyError, match=r"no machine of the cluster had 1 CPU and 1 GPU free .*: \d+ CPU"):
            begin("cuda")
    with monkeypatch.context() as patched:
        patched.setattr(engine_of_ray, "versions", lambda: replace(versions(), torch="1.0"))
        with pytest.raises(StudyError, match=r"has torch \d.*, this machine 1\.0"):
            begin()
    with monkeypatch.context() as patched:
        patched.setattr(clusters, "LEAST_OBJECT_STORE", 2**40)
        with pytest.raises(StudyError, match="object store of a machine of the cluster has"):
            begin()
    assert not ray.is_initialized()


@pytest.mark.in_make_faults
def test_pictures_and_files_arrive_whole(
    cluster: TwoNodes, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = trial_context(photos, backbone=["efficientnet_lite0"], pixels=[32], epochs=1)
    pixels = PixelSet(32, "bicubic", context.pool.digests)
    here = pixel_rows(32, "bicubic")
    monkeypatch.setattr(engine_of_ray, "CHUNK", 10 * here.row_bytes)
    with cluster.engine(2, tmp_path) as engine:
        engine.configure(context)
        engine.preload([pixels])
        with pytest.raises(ValueError, match="damaged on its way"):
            _kept("net.py", "0" * 64, ray.put(b"content"))
    expected = here.take(here.places(pixels.digests))
    for cache in cluster.caches:
        monkeypatch.setenv("AUTOTUNE_CACHE", str(cache))
        there = pixel_rows(32, "bicubic")
        assert (there.take(there.places(pixels.digests)) == expected).all()


class Lost(StudyListener):
    """Kills the second node in the middle of the first trial that runs there."""

    def __init__(self, cluster: TwoNodes) -> None:
        self.lines: list[str] = []
        self._cluster = cluster
        self._numbers: set[int] = set()
        self.seconds: list[float] = []
        self._killed_at: float | None = None

    def say(self, text: str = "") -> None:
        self.lines.append(text)

    def epoch(self, number: int, row: Epoch) -> None:
        self._numbers.add(number)
        if self._killed_at is not None:
            self.seconds.append(time.monotonic() - self._killed_at)
        elif len(self._numbers) == 2:  # so both nodes train
            self._cluster.lose_second()
            self._killed_at = time.monotonic()


@pytest.mark.in_make_faults
def test_a_dead_node_costs_no_trial(here: Path, photos: Path, cluster: TwoNodes) -> None:
    lost = Lost(cluster)
    flags = {**FLAGS, "depth": [1], "epochs": 8, "patience": 8, "gap": 1.0, "pruner": "none", "final": "trial"}
    found = search(photos, 4, "s", lost, flags=flags, engine="ray", address=cluster.address, workers=2)
    assert found["trials"] == {"complete": 4, "pruned": 0, "failed": 0, "total": 4}
    assert lost.seconds
    assert any("2 workers with" in line and "on a Ray cluster of 2 machines" in line for line in lost.lines)
    assert found["test"]["evaluations"] == 1
