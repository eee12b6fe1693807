from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import write_digits
from small_trials import trial_context

from autotune.errors import StudyError
from autotune.study.storage.checkpoints import Checkpoints
from autotune.study.storage.files import StudyFiles
from autotune.study.storage.record import open_record
from autotune.training.context import TrialContext
from autotune.training.params import Params

PARAMS = Params("efficientnet_lite0", 1, 64, 1e-5, 1e-3, "triangular", 0.5, 0.0, "adamw", 32, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    data = write_digits(tmp_path_factory.mktemp("kept") / "digits", each=10)
    return trial_context(data, backbone=["efficientnet_lite0", "small_cnn"])


@pytest.fixture
def checkpoints(context: TrialContext, tmp_path: Path) -> Iterator[Checkpoints]:
    with open_record(tmp_path) as record:
        yield Checkpoints(StudyFiles(tmp_path, record), context)


def test_only_trials_with_unfrozen_stages_start_from_the_head_of_their_probe(checkpoints: Checkpoints) -> None:
    checkpoints.keep_probe("efficientnet_lite0", 64, b"head")
    checkpoints.keep_probe("efficientnet_lite0", 96, b"another")
    assert checkpoints.needed_by(PARAMS) == {"probe-efficientnet_lite0-64.safetensors": b"head"}
    assert checkpoints.needed_by(replace(PARAMS, depth=0)) == {}
    assert checkpoints.needed_by(replace(PARAMS, backbone="small_cnn", depth=3, pixels=32)) == {}


def test_a_missing_head_raises_an_error_with_a_fix(checkpoints: Checkpoints) -> None:
    with pytest.raises(StudyError, match=r"probe-efficientnet_lite0-64.* is missing") as error:
        checkpoints.needed_by(PARAMS)
    assert error.value.fix


def test_keep_trial_returns_the_path_of_the_checkpoint(checkpoints: Checkpoints, tmp_path: Path) -> None:
    name = checkpoints.keep_trial(3, b"weights")
    assert name == "checkpoints/trial-0003.safetensors"
    assert (tmp_path / name).read_bytes() == checkpoints.files.content(name) == b"weights"


@pytest.mark.parametrize("content", [b"weighty", b"weight", b""])
def test_another_content_than_was_written_raises_an_error(
    checkpoints: Checkpoints, tmp_path: Path, content: bytes
) -> None:
    name = checkpoints.keep_trial(3, b"weights")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError, match="is damaged, or another file"):
        checkpoints.files.content(name)


def test_a_file_of_an_earlier_version_has_no_hash_and_is_read(checkpoints: Checkpoints, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"weights")
    assert checkpoints.files.content("old") == b"weights"


def test_a_folder_without_write_access_raises_an_error_with_a_fix(checkpoints: Checkpoints, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(StudyError, match=r"trial-0003\.safetensors cannot be written") as error:
        checkpoints.keep_trial(3, b"weights")
    assert "run the same command again to resume" in error.value.fix
