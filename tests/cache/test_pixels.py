from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.cache.pixels import PixelWriter, pixel_rows, read_square
from autotune.cache.rows import RowStore
from autotune.data.catalog import read_catalog
from autotune.data.picture import Picture
from autotune.data.split import likely_test, split_catalog
from autotune.errors import StudyError

LOOKS = [(32, "bilinear"), (48, "bicubic")]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def none_sealed(_: Picture) -> bool:
    return False


def test_what_reading_keeps_is_what_decoding_anew_gives(digits: Path, empty: Path) -> None:
    catalog = read_catalog(digits, shelf_for=lambda _: PixelWriter(LOOKS, none_sealed))
    for size, how in LOOKS:
        rows = pixel_rows(size, how)
        assert rows.missing(p.digest for p in catalog.pictures) == []
        for picture in catalog.pictures[::20]:
            kept = rows.take(rows.places([picture.digest]))[0]
            assert np.array_equal(kept, read_square(digits / picture.path, size, how))


def test_nothing_of_a_test_picture_is_kept(digits: Path, empty: Path) -> None:
    sealed = likely_test(0, 0.1)
    catalog = read_catalog(digits, shelf_for=lambda _: PixelWriter(LOOKS, sealed))
    parts = split_catalog(catalog, 0)
    absent = set(pixel_rows(*LOOKS[0]).missing(p.digest for p in catalog.pictures))
    assert absent == {p.digest for p in parts.part("test")}
    assert len(absent) > 5


def test_an_older_manifests_test_pictures_stay_sealed(digits: Path) -> None:
    picture = read_catalog(digits).pictures[0]
    for part in ("train", "validation", "test"):
        assert likely_test(0, 1.0, [replace(picture, part=part)])(picture) == (part == "test")
    assert likely_test(0, 0.0)(replace(picture, part="test"))
    assert not likely_test(0, 1.0)(replace(picture, part="validation"))


def test_the_shelf_is_made_for_the_pictures_size(digits: Path, empty: Path) -> None:
    sides: list[int] = []

    def shelf(side: int) -> PixelWriter:
        sides.append(side)
        return PixelWriter(LOOKS, none_sealed)

    assert read_catalog(digits, shelf_for=shelf).side == 8
    assert sides == [8]


def test_a_disk_that_fills_while_reading_is_an_error(
    digits: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StudyError("The disk is full.", "Free some.")

    monkeypatch.setattr(RowStore, "append", full)
    with pytest.raises(StudyError):
        read_catalog(digits, shelf_for=lambda _: PixelWriter(LOOKS, none_sealed))
