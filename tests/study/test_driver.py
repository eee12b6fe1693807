"""The driver with a real engine, in situations that whole studies reach only by chance."""

import time
from pathlib import Path

import pytest
from conftest import write_digits
from small_trials import trial_plan

from autotune.engines.local import LocalEngine
from autotune.search.cost_penalty import cost_penalty
from autotune.search.optuna_study import OptunaStudy
from autotune.search.plan import build_context
from autotune.study.checkpoints import Checkpoints
from autotune.study.driver import Driver
from autotune.study.files import StudyFiles
from autotune.study.limits import TimeLimits
from autotune.study.listener import StudyListener
from autotune.study.record import open_record
from autotune.study.rows import BackboneFacts


@pytest.mark.slow
def test_a_deadline_during_startup_allows_one_trial_and_a_passed_deadline_allows_none(
    tmp_path: Path,
) -> None:
    plan = trial_plan(write_digits(tmp_path / "digits"), backbone=["small_cnn"], epochs=9)
    context = build_context(plan, 1)
    folder = tmp_path / "study"
    folder.mkdir()
    search = OptunaStudy(folder / "trials.db", plan.settings, plan.selection.options)
    facts = BackboneFacts("small_cnn", "Small CNN", 3, True, (32,), (3,), "")
    with open_record(folder) as record:
        record.keep_facts(backbones={"small_cnn": facts})

        def search_for(seconds: float) -> list[str]:
            """Run for some seconds and return why each trial ended."""
            with LocalEngine(1, folder) as engine:
                engine.configure(context)
                checkpoints = Checkpoints(StudyFiles(folder, record), context)
                deadline = time.monotonic() + seconds
                limits = TimeLimits(engine, deadline, None)
                Driver(search, engine, checkpoints, record, StudyListener(), limits, cost_penalty(plan)).run(5)
            return [row.ended for row in record.trials()]

        assert search_for(-1.0) == []
        assert search_for(0.2) == ["timeout"]
