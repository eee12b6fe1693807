"""The public Python API."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import autotune
from autotune import api
from autotune.api import BestTrial
from autotune.errors import ConfigError, StudyError


def test_public_names_are_exported_and_documented() -> None:
    assert autotune.__all__ == ["AutotuneError", "Study", "backbone", "load", "search"]
    for name in autotune.__all__:
        assert inspect.getdoc(getattr(autotune, name)), name


def test_the_parameters_of_search_do_not_change() -> None:
    names = list(inspect.signature(autotune.search).parameters)
    assert names == [
        "data", "trials", "study", "timeout", "workers", "device", "config", "weights", "plugins", "manifest", "after",
        "skip_unreadable", "engine", "address", "gpus_per_trial", "device_profile", "track", "quiet", "settings",
    ]  # fmt: skip


def test_the_attributes_of_study_and_best_trial_do_not_change() -> None:
    def public(kind: type) -> list[str]:
        return sorted(name for name in vars(kind) if not name.startswith("_"))

    assert public(autotune.Study) == ["best", "evaluate", "name", "test", "trials"]
    assert sorted({*public(BestTrial), *BestTrial.__annotations__}) == [
        "export", "number", "params", "predict", "resources", "study", "value", "words",
    ]  # fmt: skip


def test_importing_autotune_does_not_import_torch() -> None:
    code = "import sys, autotune; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_finished_study_is_opened(finished: Path) -> None:
    study = autotune.Study("s")
    assert (study.name, repr(study)) == ("s", "Study('studies/s')")
    assert study.test is not None
    assert 0 <= study.test["value_interval"][0] <= study.test["value"] <= 1
    assert len(study.trials) == 4
    assert study.best.number in list(study.trials["number"])
    assert {"value", "state", "backbone", "depth", "lr_high"} <= set(study.trials.columns)


def test_without_pandas_trials_are_dicts(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "find_spec", lambda _: None)
    rows = autotune.Study("s").trials
    assert [type(row) for row in rows] == [dict] * 4
    assert rows[0]["value"] == max(row["value"] for row in rows)


def test_invalid_arguments_raise_autotune_errors(here: Path, digits: Path) -> None:
    with pytest.raises(ConfigError, match="No setting named 'metrics'"):
        autotune.search(digits, metrics="accuracy", quiet=True)
    with pytest.raises(StudyError, match="No study named 'nothing'"):
        autotune.Study("nothing")


def test_importing_a_subpackage_does_not_replace_a_public_name() -> None:
    importlib.import_module("autotune.search.sampler")
    assert callable(autotune.search)
