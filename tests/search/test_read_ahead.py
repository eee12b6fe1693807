from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autotune.backbones.registry import discover
from autotune.cache.pixels import pixel_rows, read_square
from autotune.cache.rows import RowStore
from autotune.data.catalog import read_catalog
from autotune.data.folder import LabelledFile
from autotune.data.split import split_catalog
from autotune.errors import StudyError
from autotune.search.read_ahead import ReadAhead, likely_side, likely_sizes, likely_test
from autotune.search.settings import read_settings

FLAGS: dict[str, Any] = {"backbone": ["efficientnet_lite0", "small_cnn"]}
SETTINGS = read_settings(None, FLAGS)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def read_ahead() -> ReadAhead:
    return ReadAhead(SETTINGS, discover(), None, ())


def test_reading_stores_the_decoded_pixels_except_those_of_the_test_set(digits: Path, empty: Path) -> None:
    catalog = read_catalog(digits, sink=read_ahead())
    split = split_catalog(catalog, SETTINGS.seed)
    test = {p.digest for p in split.part("test") if p.path not in split.notes}  # moved pictures are not foreseen
    assert len(test) > 5
    for size, how in likely_sizes(SETTINGS, discover(), None, side=8):
        rows = pixel_rows(size, how)
        assert set(rows.missing(p.digest for p in catalog.pictures)) == test
        for picture in catalog.pictures[::20]:
            if picture.digest in rows:
                kept = rows.take(rows.places([picture.digest]))[0]
                assert np.array_equal(kept, read_square(digits / picture.path, size, how))


def test_with_a_given_test_set_all_other_pictures_are_stored(digits: Path, empty: Path) -> None:
    files = sorted(digits.rglob("*.png"))
    for number, file in enumerate(files):
        folder = digits / ("test" if number % 10 == 0 else "train") / file.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        file.rename(folder / file.name)
    for label in "012":
        (digits / label).rmdir()
    catalog = read_catalog(digits, sink=read_ahead())
    ((size, how), *_) = likely_sizes(SETTINGS, discover(), None, side=8)
    stored = {p.path for p in catalog.pictures if p.digest in pixel_rows(size, how)}
    assert stored == {p.path for p in catalog.pictures if p.part == "train"}


def test_the_test_set_of_an_older_manifest_is_used(digits: Path) -> None:
    picture = read_catalog(digits).pictures[0]
    for part in ("train", "validation", "test"):
        assert likely_test(0, 1.0, [replace(picture, part=part)])(picture) == (part == "test")
    assert likely_test(0, 0.0)(replace(picture, part="test"))
    assert not likely_test(0, 1.0)(replace(picture, part="validation"))


def test_the_likely_side_is_the_median_of_the_headers(tmp_path: Path) -> None:
    for number, (width, height) in enumerate(((10, 90), (80, 20), (30, 30))):
        Image.new("RGB", (width, height)).save(tmp_path / f"{number}.png")
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    files = [LabelledFile(name, "a", None) for name in ("0.png", "1.png", "2.png", "damaged.png", "gone.png")]
    assert likely_side(tmp_path, files) == 20
    assert likely_side(tmp_path, files[3:]) == 0


def test_the_likely_sizes_are_those_of_the_requested_backbones() -> None:
    assert likely_sizes(SETTINGS, discover(), None, side=8) == [(32, "bilinear"), (64, "bicubic")]
    large = read_settings(None, {**FLAGS, "pixels": [96, 128]})
    assert {size for size, _ in likely_sizes(large, discover(), None, side=500)} == {32, 96, 128}  # 32: fixed


def test_a_full_disk_raises_while_reading(digits: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StudyError("The disk is full.", "Free some.")

    monkeypatch.setattr(RowStore, "append", full)
    with pytest.raises(StudyError):
        read_catalog(digits, sink=read_ahead())
