"""Face: what Python code gets of a study, beside `predict.load` for a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune import predict, summary
from autotune.errors import StudyError
from autotune.means import Means
from autotune.predict import Answer, Model


@dataclass(frozen=True)
class Best:
    """A study's winner. value: its validation score, in [0, 1]; params: its choices; words: the same, spoken."""

    study: str
    means: Means
    number: int
    value: float
    params: dict[str, Any]
    words: str

    def export(self, out: str | Path, formats: Sequence[str] = (), refit: bool = False, threshold: float | None = None,
               precision: float | None = None) -> Model:  # fmt: skip
        """Write a proven bundle and load it, as `autotune export` does. Raises AutotuneError, also where one of the
        formats is not proven.
        """
        from autotune import export
        from autotune.screen import Screen

        formats = (formats,) if isinstance(formats, str) else tuple(formats)
        request = export.Request(Path(out), formats, self.number, refit, threshold, precision)
        facts = export.export(self.study, request, self.means, Screen(quiet=True))
        if problem := export.refused(facts):
            raise problem
        return predict.load(facts["folder"])

    def predict(self, pictures: str | Path | Sequence[str | Path], top: int = 1) -> list[Answer]:
        """Answers for files, folders and patterns, in order; `top` likeliest labels each. A bad picture has `error`."""
        return predict.load(self.study, self.means).predict(pictures, top)


class Study:
    """A study by its name in ./studies, or by its folder. Raises StudyError where there is none."""

    def __init__(self, name: str | Path, device: str = "auto", weights: str | Path | None = None,
                 plugins: Sequence[str | Path] = ()) -> None:  # fmt: skip
        self.folder = summary.find(str(name))
        self._means = Means(device, Path(weights) if weights else None, tuple(Path(place) for place in plugins))

    @property
    def best(self) -> Best:
        """The winner as it stands. Raises StudyError where no trial is complete."""
        found = summary.status(str(self.folder))["best"]
        if found is None:
            raise StudyError(f"Study {self.folder.name} has no complete trial.", "Let it finish one: search again.")
        told = {name: found[name] for name in ("number", "value", "params", "words")}
        return Best(str(self.folder), self._means, **told)
