from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotune.cache import pixels
from autotune.cache.pixels import PixelWriter, fill_pixels, pixel_rows, read_square
from autotune.data.catalog import read_catalog
from autotune.data.picture import read_picture

SIZES = [(32, "bilinear"), (48, "bicubic")]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_stored_pixels_equal_decoded_pixels(digits: Path, empty: Path) -> None:
    catalog = read_catalog(digits)
    writer = PixelWriter(SIZES)
    for picture in catalog.pictures:
        writer.add(picture.digest, read_picture(digits / picture.path))
    writer.flush()
    for size, how in SIZES:
        rows = pixel_rows(size, how)
        assert rows.missing(p.digest for p in catalog.pictures) == []
        for picture in catalog.pictures[::20]:
            stored = rows.take(rows.places([picture.digest]))[0]
            assert np.array_equal(stored, read_square(digits / picture.path, size, how))


def test_adding_a_picture_twice_stores_one_row(digits: Path, empty: Path) -> None:
    picture = read_catalog(digits).pictures[0]
    image = read_picture(digits / picture.path)
    for _ in range(2):
        writer = PixelWriter(SIZES)
        writer.add(picture.digest, image)
        writer.add(picture.digest, image)
        writer.flush()
    assert [file.stat().st_size for file in empty.rglob("keys.bin")] == [16, 16]


def test_pixels_of_another_code_version_are_decoded_again(
    digits: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = read_catalog(digits).pictures[:5]
    digests = [picture.digest for picture in pictures]
    fill_pixels(pixel_rows(32, "bilinear"), digits, pictures, "bilinear", lambda *_: None)
    assert pixel_rows(32, "bilinear").missing(digests) == []
    monkeypatch.setattr(pixels, "VERSION", pixels.VERSION + 1)
    assert pixel_rows(32, "bilinear").missing(digests) == digests


def test_the_centre_square_is_resized(tmp_path: Path) -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))
    wide.save(tmp_path / "x.png")
    square = read_square(tmp_path / "x.png", 50, "bilinear")
    assert square.shape == (3, 50, 50)
    assert square[2, :, 2:-2].min() > 250
    assert square[0, :, 2:-2].max() < 5


def test_only_the_centre_of_a_very_long_picture_is_resized(tmp_path: Path) -> None:
    Image.new("RGB", (1, 60_000), "red").save(tmp_path / "x.png")
    assert read_square(tmp_path / "x.png", 224, "bilinear").shape == (3, 224, 224)
