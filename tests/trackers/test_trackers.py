"""Studies in MLflow, Weights & Biases and Trackio, each without a server."""

import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import run_command
from small_studies import QUICK, Lines

from autotune.errors import AutotuneError, ConfigError
from autotune.export.export import ExportRequest, export_trial
from autotune.study.listener import StudyListener
from autotune.study.request import Resources, SearchRequest
from autotune.study.summary import Summary, study_status
from autotune.trackers.base import TRACKERS, find_tracker
from autotune.trackers.listener import TrackingListener, run_tracked

pytestmark = pytest.mark.slow


def tracked(data: Path, tracker: str, trials: int = 4, name: str = "s") -> tuple[Summary, list[str]]:
    """Run or resume a study with a tracker; return its summary and what was said."""
    shown = Lines()
    request = SearchRequest(data=data, name=name, trials=trials, flags=QUICK, device="cpu")
    return run_tracked(request, tracker, shown), shown.lines


@pytest.fixture
def exported(finished: Path) -> Path:
    """The finished study, with its bundle."""
    export_trial("s", ExportRequest(), Resources("cpu"), StudyListener())
    return finished


def pictures(study: Path) -> Path:
    """Return the folder of the study's pictures."""
    with sqlite3.connect(study / "record.db") as record:
        return Path(json.loads(record.execute("select value from study where key = 'root'").fetchone()[0]))


def test_mlflow_has_a_run_for_the_study_and_a_child_for_each_trial(
    exported: Path, here: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{here}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    found, said = tracked(pictures(exported), "mlflow", trials=5)  # four are in the record, the fifth is trained
    assert said[-1] == "Tracked with MLflow: mlflow ui (pip install mlflow)"
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("autotune").experiment_id])
    study = next(run for run in runs if run.data.tags["autotune.part"] == "study")
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == study.info.run_id]
    assert len(children) == 5
    assert len(runs) == 6
    assert study.info.status == "FINISHED"
    assert study.data.metrics["test/accuracy"] == found.test.accuracy  # type: ignore[union-attr]
    assert {item.path for item in client.list_artifacts(study.info.run_id)} == {"report.html", "bundle"}
    for row in found.leaderboard:
        child = next(run for run in children if run.data.tags["autotune.part"] == str(row.number))
        assert child.data.params["optimizer"] == row.params.optimizer
        assert child.data.metrics["best/accuracy"] == row.value
        curve = client.get_metric_history(child.info.run_id, "accuracy/validation")
        assert [point.step for point in curve] == list(range(1, (row.epochs or 0) + 1))
        assert child.info.status == ("FINISHED" if row.state == "complete" else "KILLED")
    state = json.loads((exported / "tracking.json").read_text())
    assert state["sent"] == {f"mlflow {uri}": [0, 1, 2, 3, 4]}
    (exported / "tracking.json").write_text(json.dumps({**state, "sent": {}}))  # as after kill -9: all is sent again
    tracked(pictures(exported), "mlflow", trials=5)
    assert len(client.search_runs([study.info.experiment_id])) == 6
    for child in children:  # no point twice
        again = client.get_metric_history(child.info.run_id, "loss")
        assert len(again) == len({point.step for point in again})


@pytest.mark.in_make_faults
def test_wandb_has_offline_runs_for_the_study_and_its_trials(
    exported: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(here))
    _, said = tracked(pictures(exported), "wandb")
    assert said[-1].startswith("Tracked with Weights & Biases")
    runs = list((here / "wandb").glob("offline-run-*"))
    assert len(runs) == 5
    identity = json.loads((exported / "tracking.json").read_text())["id"]
    assert {run.name.rpartition("-" + identity)[2] for run in runs} == {"", "-0", "-1", "-2", "-3"}
    assert all(next(run.glob("*.wandb")).stat().st_size for run in runs)


def test_trackio_has_runs_for_the_study_and_its_trials(
    exported: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(here / "trackio"))
    _, said = tracked(pictures(exported), "trackio")
    assert said[-1] == "Tracked with Trackio: trackio show"
    code = "import json, trackio\nruns = trackio.Api().runs('autotune')\nprint(json.dumps([run.name for run in runs]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = json.loads(done.stdout.splitlines()[-1])
    identity = json.loads((exported / "tracking.json").read_text())["id"]
    assert sorted(names) == sorted([f"s-{identity[:8]}", *(f"s-{identity[:8]}-trial-{n}" for n in range(4))])


def test_a_study_goes_on_without_a_tracker_that_is_away_and_says_so_once(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found, said = tracked(pictures(exported), "mlflow")
    assert found.n_trials["total"] == 4
    about = [line for line in said if "MLflow" in line]
    assert len(about) == 1
    assert about[0].startswith("MLflow gets nothing more: ")
    assert "The study goes on without it; see" in about[0]
    assert "Traceback" in (exported / "tracking.log").read_text()
    assert json.loads((exported / "tracking.json").read_text())["sent"] == {}


def test_a_tracker_whose_process_is_killed_does_not_stop_a_study(
    exported: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlflow.db")
    shown = Lines()
    with TrackingListener("mlflow", shown) as listener:
        from autotune.study.storage.record import open_record

        with open_record(exported) as record:
            listener.opened(exported, "accuracy", record)
            listener.end(study_status("s"), Resources("cpu"))
        (child,) = multiprocessing.active_children()
        psutil.Process(child.pid).kill()
        deadline = time.monotonic() + 20
        while child.is_alive() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert [line for line in shown.lines if "MLflow" in line] == [
        "MLflow gets nothing more: its process has ended. The study goes on without it; see "
        f"{exported / 'tracking.log'}."
    ]


@pytest.mark.in_make_faults
def test_an_interrupted_search_ends_its_runs_and_sends_the_rest_when_it_is_resumed(
    here: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{here}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    class Interrupting(Lines):
        def epoch(self, number: int, row: Any) -> None:
            if number == 1:
                raise KeyboardInterrupt

    request = SearchRequest(data=digits, name="t", trials=2, flags=QUICK, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        run_tracked(request, "mlflow", Interrupting())
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("autotune").experiment_id
    states = {run.data.tags["autotune.part"]: run.info.status for run in client.search_runs([experiment])}
    assert states == {"study": "KILLED", "0": "FINISHED", "1": "KILLED"}
    run_tracked(request, "mlflow", Lines())
    runs = client.search_runs([experiment])
    assert {run.data.tags["autotune.part"] for run in runs} == {"study", "0", "1"}
    assert next(run for run in runs if run.data.tags["autotune.part"] == "study").info.status == "FINISHED"
    assert all(run.info.status in ("FINISHED", "KILLED") for run in runs)


def test_an_unknown_tracker_and_one_that_is_not_installed_are_refused(
    here: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="No tracker named 'mlfow'"):
        find_tracker("mlfow")
    done = run_command("search", str(digits), "--track", "mlfow")
    assert (done.returncode, done.stderr.splitlines()[1]) == (1, "Did you mean 'mlflow'?")
    for entry in TRACKERS.values():
        monkeypatch.setitem(sys.modules, entry.package, None)
        with pytest.raises(AutotuneError, match=rf"{entry.package} is not installed.\nInstall it with: pip install"):
            TrackingListener(entry.name, Lines())
    assert not os.path.exists("studies")
