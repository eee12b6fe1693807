"""Files of a study that are gone, damaged, swapped or of another age: named, and nothing is overwritten."""

import shutil
from pathlib import Path

import pytest
from conftest import write_digits
from small_studies import search

from autotune.cli.live.console import PlainConsole
from autotune.errors import DataError, StudyError
from autotune.study.reopen import evaluate_again
from autotune.study.request import Resources
from autotune.study.summary import study_status

pytestmark = pytest.mark.slow


@pytest.fixture
def photos(searched: Path) -> Path:
    """The pictures of the finished study."""
    return searched.parents[1] / "digits3"


def contents(folder: Path) -> dict[str, bytes]:
    left = {"lock", "record.lock"}
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()
            if file.name not in left}  # fmt: skip


@pytest.mark.parametrize("name", ["trials.db", "record.db", "manifest.csv"])
def test_a_study_without_one_of_its_files_is_refused_and_left_as_it_is(name: str, finished: Path, photos: Path) -> None:
    (finished / name).unlink()
    before = contents(finished)
    with pytest.raises(StudyError, match=f"is incomplete: .*{name} is missing"):
        search(photos, 6)
    assert contents(finished) == before


def test_status_of_a_study_without_its_record_names_the_file(finished: Path) -> None:
    (finished / "record.db").unlink()
    with pytest.raises(StudyError, match=r"record\.db is missing"):
        study_status("s")


@pytest.mark.parametrize("name", ["trials.db", "record.db"])
def test_a_database_that_is_older_than_the_other_is_refused(name: str, finished: Path, photos: Path) -> None:
    old = (finished / name).read_bytes()
    search(photos, 6)
    checkpoint = (finished / "checkpoints" / "trial-0004.safetensors").read_bytes()
    (finished / name).write_bytes(old)
    with pytest.raises(StudyError, match=f"{name} is older .* it has no trial 4"):
        search(photos, 8)
    assert (finished / "checkpoints" / "trial-0004.safetensors").read_bytes() == checkpoint


def test_a_flipped_bit_in_the_final_model_stops_its_evaluation(finished: Path) -> None:
    final = study_status("s").final
    assert final
    file = finished / final.checkpoint
    content = bytearray(file.read_bytes())
    content[-100] ^= 4
    file.write_bytes(content)
    with pytest.raises(StudyError, match="is damaged, or another file"):
        evaluate_again("s", Resources("cpu"), PlainConsole(quiet=True))
    assert study_status("s").n_evaluations == 1


def test_a_checkpoint_in_place_of_another_stops_the_evaluation(finished: Path) -> None:
    final = study_status("s").final
    assert final
    other = next(file for file in finished.glob("checkpoints/trial-*.safetensors"))
    shutil.copy(other, finished / final.checkpoint)
    with pytest.raises(StudyError, match="is damaged, or another file"):
        evaluate_again("s", Resources("cpu"), PlainConsole(quiet=True))


def test_the_clock_moving_back_does_not_reorder_the_trials(here: Path, tmp_path: Path) -> None:
    from autotune.study.storage.record import open_record

    search(write_digits(tmp_path / "digits"), 3)
    with open_record(here / "studies" / "s") as record:
        params = record.trials()[0].params
        record.keep_failure(3, params, "fails", "")
        record._db.execute("update trials set finished = '1999' where number = 3")
        assert record.last_states(2) == ["failed", "complete"]


@pytest.mark.parametrize("name", ["trials.db", "record.db"])
@pytest.mark.parametrize("damage", ["cut", "foreign", "empty", "flipped"])
def test_a_damaged_database_is_named_before_any_work(name: str, damage: str, finished: Path, photos: Path) -> None:
    file = finished / name
    whole = file.read_bytes()
    damaged = {
        "cut": whole[: len(whole) // 2],
        "foreign": b"not a database " * 1000,
        "empty": b"",
        "flipped": whole[:4096] + bytes(one ^ 255 for one in whole[4096:8192]) + whole[8192:],
    }
    file.write_bytes(damaged[damage])
    (finished / "checkpoints").rename(finished / "hidden")  # no work is done, so nothing is read or written there
    with pytest.raises(StudyError, match=name) as error:
        search(photos, 6)
    assert error.value.fix
    assert not (finished / "checkpoints").exists()
    assert file.read_bytes() == damaged[damage]


def test_a_loop_of_links_is_no_folder(here: Path) -> None:
    (here / "loop").symlink_to(here / "loop")
    with pytest.raises(DataError, match="does not exist"):
        search(here / "loop", name=None)


@pytest.mark.parametrize("content", [b'path,label\n"' + b"x" * 200_000, b"\xff\xfe\x00", b"path\n1\n", b"a" * 300_000])
def test_a_damaged_manifest_is_named(content: bytes, finished: Path, photos: Path) -> None:
    (finished / "manifest.csv").write_bytes(content)
    with pytest.raises(StudyError, match="manifest"):
        search(photos, 6)
