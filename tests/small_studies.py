"""Small real studies that several tests run, and how two of them are compared."""

from pathlib import Path
from typing import Any

from autotune.study.listener import StudyListener
from autotune.study.request import SearchRequest
from autotune.study.run import run_study

QUICK: dict[str, Any] = {"epochs": 3, "backbone": ["small_cnn"]}


def search(
    data: Path, trials: int = 2, name: str = "s", listener: StudyListener | None = None, **more: Any
) -> dict[str, Any]:
    """Run a study on the CPU, or go on with it. Returns its summary as JSON. flags: settings over those of QUICK."""
    flags = {**QUICK, **more.pop("flags", {})}
    request = SearchRequest(data=data, name=name, trials=trials, flags=flags, device="cpu", **more)
    return run_study(request, listener or StudyListener()).to_json()


def without_time(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A study's leaderboard without what varies from run to run."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found["leaderboard"]]
