from dataclasses import replace
from pathlib import Path

import pytest
from conftest import write_digits
from small_trials import trial_context

from autotune.errors import StudyError
from autotune.study.checkpoints import Checkpoints
from autotune.training.context import TrialContext
from autotune.training.params import Params

PARAMS = Params("efficientnet_lite0", 1, 64, 1e-5, 1e-3, "triangular", 0.5, 0.0, "adamw", 32, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    data = write_digits(tmp_path_factory.mktemp("kept") / "digits", each=10)
    return trial_context(data, backbone=["efficientnet_lite0", "small_cnn"])


def test_only_trials_with_unfrozen_stages_start_from_the_head_of_their_probe(
    context: TrialContext, tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path, context)
    checkpoints.keep_probe("efficientnet_lite0", 64, b"head")
    checkpoints.keep_probe("efficientnet_lite0", 96, b"another")
    assert checkpoints.needed_by(0, PARAMS) == {"probe-efficientnet_lite0-64.safetensors": b"head"}
    assert checkpoints.needed_by(0, replace(PARAMS, depth=0)) == {}
    assert checkpoints.needed_by(0, replace(PARAMS, backbone="small_cnn", depth=3, pixels=32)) == {}


def test_a_missing_head_raises_an_error_with_a_fix(context: TrialContext, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"probe-efficientnet_lite0-64.* is missing; trial 7 starts from it") as error:
        Checkpoints(tmp_path, context).needed_by(7, PARAMS)
    assert error.value.fix


def test_keep_trial_returns_the_path_of_the_checkpoint(context: TrialContext, tmp_path: Path) -> None:
    name = Checkpoints(tmp_path, context).keep_trial(3, b"weights")
    assert name == "checkpoints/trial-0003.safetensors"
    assert (tmp_path / name).read_bytes() == b"weights"


def test_a_folder_without_write_access_raises_an_error_with_a_fix(context: TrialContext, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(StudyError, match=r"trial-0003\.safetensors cannot be written") as error:
        Checkpoints(tmp_path, context).keep_trial(3, b"weights")
    assert "run the same command again to resume" in error.value.fix
