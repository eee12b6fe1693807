"""Tests that every engine must pass. To test an engine, add it to ENGINES."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import workers_of
from conftest import IN_MAKE_FAULTS, write_digits
from ray_cluster import ray_workers, two_nodes
from small_trials import KeptEpochs, trial_context

from autotune.engines import local
from autotune.engines.base import Died, Engine, Failed, Message, PixelSet, Place, ProbeTask, Task, TrialTask
from autotune.engines.local import LocalEngine, local_devices
from autotune.errors import StudyError
from autotune.training.context import LoadedBackbones, TrialContext
from autotune.training.outcome import Epoch, ProbeOutcome, TrialOutcome
from autotune.training.params import Params
from autotune.training.probe import probe_file_name
from autotune.training.trial import run_probe, run_trial

pytestmark = pytest.mark.slow

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Kind:
    """One kind of engine. open: an engine with so many places and a study folder. how: a killed worker is described."""

    open: Callable[[int, Path], Engine]
    workers: Callable[[], set[int]]
    how: str
    exited: str


# A network that prints when it is built, and raises or dies in training at certain batch sizes.
TROUBLED = '''"""Troubled: a net for tests."""

import os
import signal
from pathlib import Path

from torch import nn

from autotune import backbone

DIED_ONCE = Path("PLACE", "died_once")


class Layer(nn.Linear):
    def forward(self, x):
        if self.training and len(x) == 17:
            raise RuntimeError("test error")
        if self.training and len(x) == 19 and not DIED_ONCE.exists():
            DIED_ONCE.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


@backbone(pixels=8, features=8, from_scratch=True)
def troubled(pretrained):
    print("printed by Python")
    os.write(2, b"printed by native code\\n")
    return nn.Sequential(nn.Sequential(nn.Flatten(1), Layer(192, 8)))
'''
PLAIN, RAISES, DIES_ONCE = 40, 17, 19  # batch sizes; none equals the last batch of another


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    folder = tmp_path_factory.mktemp("contract")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "troubled.py").write_text(TROUBLED.replace("PLACE", str(folder)))
    data = write_digits(folder / "digits", classes=3, each=20)
    return trial_context(data, (folder / "plugins",), backbone=["efficientnet_lite0", "troubled"], epochs=3)


@pytest.fixture(scope="module", params=ENGINES)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kind]:
    if request.param == "local":
        yield Kind(
            lambda n, folder: LocalEngine(local_devices("cpu", n), folder),
            lambda: {one.pid for one in workers_of(os.getpid())}, how="-9", exited="code 3",
        )  # fmt: skip
        return
    if not IN_MAKE_FAULTS:
        pytest.skip("on Ray, runs in `make faults`: each of its workers imports torch again")
    with two_nodes(tmp_path_factory.mktemp("nodes")) as cluster:
        yield Kind(
            cluster.engine,
            lambda: {one.pid for one in ray_workers()},
            how="its process",
            exited="its process",
        )


@pytest.fixture
def new_engine(kind: Kind, tmp_path: Path, here: Path) -> Callable[[int], Engine]:
    """Return a factory of engines with the folder `study`, in an empty working directory."""
    (tmp_path / "study").mkdir()
    return lambda n_places: kind.open(n_places, tmp_path / "study")


@pytest.fixture(scope="module")
def study(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study folder of `engine`."""
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def engine(kind: Kind, study: Path, context: TrialContext) -> Iterator[Engine]:
    """An engine with one place for several tests, because a worker of Ray takes seconds to start."""
    with kind.open(1, study) as entered:
        entered.configure(context)
        entered.preload(pixel_sets(context))
        yield entered


def pixel_sets(context: TrialContext) -> list[PixelSet]:
    """Return the pictures of all tasks of a context."""
    return [
        PixelSet(pixels, context.backbones[name][0].traits.interpolation, context.pool.digests)
        for name, pixels in {*context.cuts, ("troubled", 8)}
    ]


def pretrained(context: TrialContext) -> tuple[str, int]:
    """Return the backbone and size to probe."""
    (found,) = [key for key in context.cuts if not context.is_from_scratch(key[0])]
    return found


def trial(number: int, batch_size: int = PLAIN) -> TrialTask:
    return TrialTask(
        number,
        Params("troubled", 1, 8, 1e-5, 1e-3, "triangular", 0.0, 0.0, "adamw", batch_size, 0.0, 0.0, 0.0),
    )


def wait_for(engine: Engine, n_idle: int = 1) -> Place:
    """Wait until `n_idle` places are idle, and return one of them."""
    while len(engine.idle) < n_idle:
        assert engine.starting
        assert not list(engine.events())
    return engine.idle[0]


def ran(engine: Engine, task: Task, files: Mapping[str, bytes] | None = None, stop: str | None = None) -> list[Message]:
    """Return all reports of a task. The reply to its epochs is `stop`."""
    wait_for(engine).give(task, files or {})
    found: list[Message] = []
    while engine.busy:
        for place, of, message in engine.events():
            assert of == task
            found.append(message)
            if isinstance(message, Epoch):
                place.answer(stop)
    return found


def files_in(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@pytest.fixture
def same_threads(context: TrialContext) -> Iterator[None]:
    """Compute in this process as in a worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(context.threads)
    torch.set_flush_denormal(True)
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)


def test_a_place_starts_becomes_idle_runs_a_task_and_is_idle_again(
    new_engine: Callable[[int], Engine], context: TrialContext
) -> None:
    with new_engine(2) as engine:
        assert (len(engine.starting), len(engine.idle), engine.busy) == (2, 0, False)
        engine.configure(context)
        engine.preload(pixel_sets(context))
        wait_for(engine, n_idle=2)
        assert (len(engine.starting), engine.busy) == (0, False)
        engine.idle[0].give(trial(0), {})
        assert (len(engine.starting), len(engine.idle), engine.busy) == (0, 1, True)
        ended = None
        while ended is None:
            for place, task, message in engine.events():
                assert task == trial(0)
                if isinstance(message, Epoch):
                    place.answer(None)
                else:
                    ended = message
        assert isinstance(ended, TrialOutcome)
        assert (len(engine.starting), len(engine.idle), engine.busy) == (0, 2, False)


@pytest.mark.usefixtures("same_threads")
def test_probes_and_trials_return_their_weights_and_write_only_logs(
    engine: Engine, context: TrialContext, study: Path, tmp_path: Path, here: Path
) -> None:
    name, pixels = pretrained(context)
    *_, probe = ran(engine, ProbeTask(name, pixels))
    assert isinstance(probe, ProbeOutcome)
    files = {probe_file_name(name, pixels): probe.head}
    deep = TrialTask(1, replace(trial(1).params, backbone=name, depth=1, pixels=pixels))
    reported = ran(engine, deep, files)
    ended = reported[-1]
    assert isinstance(ended, TrialOutcome)
    assert [row.number for row in reported if isinstance(row, Epoch)] == list(range(1, ended.epochs + 1))
    assert files_in(study) == [f"logs/probe-{name}-{pixels}.log", "logs/trial-0001.log"]
    assert not list(here.iterdir())

    backbones = LoadedBackbones(context)
    probe_here = run_probe(backbones, name, pixels, KeptEpochs())
    assert (probe.head, probe.value) == (probe_here.head, probe_here.value)
    trial_here = run_trial(backbones, 1, deep.params, files, tmp_path, KeptEpochs())
    assert ended.checkpoint == trial_here.checkpoint
    assert (ended.value, ended.log_loss) == (trial_here.value, trial_here.log_loss)


def test_a_stop_reply_makes_an_epoch_the_last(engine: Engine) -> None:
    first, ended = ran(engine, trial(0), stop="pruned")
    assert isinstance(first, Epoch)
    assert isinstance(ended, TrialOutcome)
    assert (ended.ended, ended.epochs, ended.checkpoint) == ("pruned", 1, None)


def test_a_task_that_raises_fails_and_its_place_takes_the_next(engine: Engine) -> None:
    (failed,) = ran(engine, trial(0, RAISES))
    assert isinstance(failed, Failed)
    assert failed.error == "RuntimeError: test error"
    assert "Traceback" in failed.trace
    log = engine.log(trial(0, RAISES).name).read_text()
    for output in ("printed by Python", "printed by native code", failed.trace):
        assert output in log
    assert isinstance(ran(engine, trial(1))[-1], TrialOutcome)
    assert "test error" not in engine.log(trial(1).name).read_text()


def test_a_dead_worker_is_reported_and_a_new_one_takes_its_task(
    engine: Engine, kind: Kind, context: TrialContext
) -> None:
    Path(context.backbones["troubled"][0].file).parents[1].joinpath("died_once").unlink(missing_ok=True)
    *_, died = ran(engine, trial(0, DIES_ONCE))
    assert isinstance(died, Died)
    assert kind.how in died.reason
    assert (len(engine.starting), len(engine.idle), engine.busy) == (1, 0, False)
    assert isinstance(ran(engine, trial(0, DIES_ONCE))[-1], TrialOutcome)


def assert_only(kind: Kind, before: set[int]) -> None:
    """Check that no worker is left. A cluster ends its processes in the background."""
    end = time.monotonic() + 10
    while kind.workers() != before and time.monotonic() < end:
        time.sleep(0.1)
    assert kind.workers() == before


class Poison:
    """Exits the process that unpickles it."""

    def __reduce__(self) -> Any:
        return os._exit, (3,)


def test_workers_that_die_repeatedly_during_their_start_raise(
    new_engine: Callable[[int], Engine], kind: Kind, context: TrialContext
) -> None:
    before = kind.workers()

    def start() -> None:
        with new_engine(1) as engine:
            engine.configure(replace(context, metric=Poison()))  # type: ignore[arg-type]
            wait_for(engine)

    with pytest.raises(StudyError, match=f"died during their start.*{kind.exited}"):
        start()
    assert_only(kind, before)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, workers are always new processes")
def test_without_a_place_for_a_socket_workers_are_new_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local._process_context().get_start_method() == "forkserver"
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 76)
    assert local._process_context().get_start_method() == "spawn"
    monkeypatch.setattr(tempfile, "gettempdir", lambda: (_ for _ in ()).throw(FileNotFoundError()))
    assert local._process_context().get_start_method() == "spawn"


@pytest.mark.in_make_faults
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, workers are always new processes")
def test_warming_up_starts_the_process_of_the_workers_before_torch_is_imported() -> None:
    code = (
        "import psutil, sys; from autotune.engines.local import warm_up; before = psutil.Process().children()\n"
        "warm_up(); print(len(before), len(psutil.Process().children()) > 0, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True", "False"]


@pytest.mark.slow
def test_only_workers_import_lightning() -> None:
    code = (
        "import sys, autotune.study.run, autotune.study.growth.later, autotune.study.reopen, autotune.export.export\n"
        "print('torch' in sys.modules, {'pytorch_lightning', 'torchmetrics'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True set()"


def test_exit_leaves_no_process(new_engine: Callable[[int], Engine], kind: Kind, context: TrialContext) -> None:
    before = kind.workers()
    with new_engine(2) as engine:
        engine.configure(context)
        wait_for(engine)
        assert kind.workers() > before
    assert_only(kind, before)


def test_exit_by_an_exception_ends_a_running_task_immediately(
    new_engine: Callable[[int], Engine], kind: Kind, context: TrialContext
) -> None:
    before = kind.workers()

    def interrupt() -> None:
        with new_engine(1) as engine:
            engine.configure(context)
            engine.preload(pixel_sets(context))
            wait_for(engine).give(trial(0), {})
            assert [type(message) for _, _, message in engine.events()] == [Epoch]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert_only(kind, before)
