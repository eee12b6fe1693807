"""Run and compare small real studies, for several tests."""

from pathlib import Path
from typing import Any

from autotune.study.listener import StudyListener
from autotune.study.request import SearchRequest
from autotune.study.run import run_study

QUICK: dict[str, Any] = {"epochs": 3, "backbone": ["quick_cnn"]}


class Lines(StudyListener):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str = "") -> None:
        self.lines.append(text)


def search(
    data: Path, trials: int = 2, name: str | None = "s", listener: StudyListener | None = None, **more: Any
) -> dict[str, Any]:
    """Run or resume a study on the CPU and return its summary as JSON. flags: settings that override QUICK."""
    flags = {**QUICK, **more.pop("flags", {})}
    request = SearchRequest(data=data, name=name, trials=trials, flags=flags, device="cpu", **more)
    return run_study(request, listener or StudyListener()).to_json()


def without_time(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the leaderboard without the values that vary between runs."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found["leaderboard"]]
