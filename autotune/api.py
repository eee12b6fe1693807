"""The Python API: run a search, open a study and use its best trial. `export.predict.load` loads a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autotune.export.predict import Classifier, Prediction, load
from autotune.study.request import Resources
from autotune.study.summary import find_study, study_status

_COLUMNS = ("number", "state", "value", "log_loss", "best_epoch", "epochs", "ended", "seconds", "error")


@dataclass(frozen=True)
class BestTrial:
    """The best trial of a study. value: validation score in [0, 1]. params: hyperparameters. words: params as text."""

    study: str
    resources: Resources
    number: int
    value: float
    params: dict[str, Any]
    words: str

    def export(self, out: str | Path, formats: Sequence[str] = (), threshold: float | None = None,
               precision: float | None = None) -> Classifier:  # fmt: skip
        """Export the final model as `autotune export` does, and load the bundle.

        Raises AutotuneError, also if a format is rejected.
        """
        from autotune.export.export import ExportRequest, export_trial
        from autotune.study.listener import StudyListener

        formats = (formats,) if isinstance(formats, str) else tuple(formats)
        request = ExportRequest(Path(out), formats, threshold=threshold, precision=precision)
        result = export_trial(self.study, request, self.resources, StudyListener())
        if problem := result.rejection():
            raise problem
        return load(result.folder)

    def predict(self, pictures: str | Path | Sequence[str | Path], top: int = 1) -> list[Prediction]:
        """Predict files, folders and patterns, in order, with the `top` most probable labels. Unreadable pictures have
        `error` set.
        """
        return load(self.study, self.resources).predict(pictures, top)


def search(data: str | Path | None = None, trials: int = 50, *, study: str | None = None, timeout: float | None = None,
           workers: int | None = None, device: str = "auto", config: str | Path | None = None,
           weights: str | Path | None = None, plugins: Sequence[str | Path] = (), manifest: str | Path | None = None,
           after: str | None = None, skip_unreadable: bool = False, engine: str = "local", address: str | None = None,
           gpus_per_trial: float | None = None, device_profile: str | Path | None = None, track: str | None = None,
           quiet: bool = False, **settings: Any) -> Study:  # fmt: skip
    """Run or resume a study in ./studies, as `autotune search` does. A finished study is only opened.

    data: a folder, a CSV or TSV file, the name of a torchvision dataset, or None for the built-in digits. trials:
    total number of finished trials. timeout: seconds. engine, address, gpus_per_trial (for a Ray
    cluster), after, device_profile, track: as the options of the command. settings: keys of study.toml, including
    those in [space]: metric="macro_f1", epochs=12, seed=1, backbone=["resnet18"], depth=[0, 1],
    augment={"low": 0, "high": 1}.
    Raises AutotuneError for errors that the user can fix.
    """
    from autotune.cli.live.live_console import open_console
    from autotune.study.check_request import study_folder
    from autotune.study.request import SearchRequest
    from autotune.trackers.listener import run_tracked

    request = SearchRequest(
        data=_path(data), name=study, trials=trials, timeout=timeout, workers=workers, device=device,
        config=_path(config), weights=_path(weights), plugins=tuple(Path(place) for place in plugins),
        manifest=_path(manifest), after=after, skip_unreadable=skip_unreadable, engine=engine, address=address,
        gpus_per_trial=gpus_per_trial, device_profile=_path(device_profile), flags=settings,
    )  # fmt: skip
    console = open_console(quiet, program=False, verbose=False)
    with console:
        run_tracked(request, track, console)
    return Study(study_folder(request), device, weights, plugins)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


class Study:
    """A study, opened by its name in ./studies or by its folder. Raises StudyError if it does not exist.

    device, weights, plugins: used to load its best trial; pass the values of the search.
    """

    def __init__(self, name: str | Path, device: str = "auto", weights: str | Path | None = None,
                 plugins: Sequence[str | Path] = ()) -> None:  # fmt: skip
        self.folder = find_study(str(name))
        self._resources = Resources(device, Path(weights) if weights else None, tuple(Path(place) for place in plugins))

    @property
    def best(self) -> BestTrial:
        """The best trial so far. Raises StudyError if no trial is completed."""
        found = study_status(str(self.folder))
        row = found.winner
        words, value = found.describe(row), row.value or 0.0
        return BestTrial(str(self.folder), self._resources, row.number, value, row.params.recorded(), words)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def test(self) -> dict[str, Any] | None:
        """The test set evaluation of the best trial, or None: value and value_interval of the metric, in [0, 1], n,
        accuracy, per_class, confusion (rows: true classes), mistakes, evaluations and more.
        """
        found: dict[str, Any] | None = study_status(str(self.folder)).to_json()["test"]
        return found

    def evaluate(self, on: str | Path, group_by: str = "auto") -> dict[str, Any]:
        """Evaluate the final model on a folder or table of later pictures, as `autotune evaluate --on` does.

        The test set is not used. Returns what --json prints: scores (evaluation, fall by class, answered), drift,
        copies, unknown, missing and skipped. Raises AutotuneError.
        """
        from autotune.study.growth.later import evaluate_later
        from autotune.study.listener import StudyListener

        return evaluate_later(str(self.folder), Path(on), self._resources, StudyListener(), group_by).to_json()

    @property
    def trials(self) -> Any:
        """All finished trials, best first: a pandas DataFrame if pandas is installed, else a list of dicts.

        Columns: number, state, value (of the metric, in [0, 1]), epochs, ended, seconds, error, and one per
        hyperparameter.
        """
        board = study_status(str(self.folder)).leaderboard
        rows = [{**{name: getattr(row, name) for name in _COLUMNS}, **row.params.recorded()} for row in board]
        if find_spec("pandas") is None:
            return rows
        import pandas

        return pandas.DataFrame(rows)

    def __repr__(self) -> str:
        return f"Study({str(self.folder)!r})"
