"""Pictures from strangers: other formats in disguise, damaged files, and pictures that take much memory."""

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_digits
from PIL import Image

from autotune.data import picture as pictures
from autotune.data.catalog import check_readable, read_catalog
from autotune.data.decode import decode_image
from autotune.data.picture import UnreadableError, read_picture
from autotune.errors import DataError

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n{ } loop\n"


@pytest.mark.parametrize("name", ["cat.jpg", "cat.eps", "cat.ps"])
def test_postscript_never_reaches_ghostscript(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would run `gs`; one that leaves a trace stands in for it."""
    trace, fake = tmp_path / "trace", tmp_path / "bin" / "gs"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch {trace}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / name).write_bytes(POSTSCRIPT)
    with pytest.raises(UnreadableError, match="not a picture, or in an unsupported format"):
        read_picture(tmp_path / name)
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["AVIF", "DDS", "WEBP", "JPEG2000", "TIFF", "GIF", "BMP", "PNG", "JPEG"])
def test_damaged_pictures_are_skipped_by_name(kind: str, tmp_path: Path) -> None:
    """One picture, damaged in many places: whatever its decoder raises, the folder is read."""
    folder = write_digits(tmp_path / "photos", classes=2, each=25)
    whole = tmp_path / "whole"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    try:
        Image.fromarray(noise).save(whole, format=kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {kind}")
    content = whole.read_bytes()
    rng = np.random.default_rng(1)
    for number in range(5):  # under a tenth of the pictures
        damaged = bytearray(content[: len(content) - int(rng.integers(0, len(content) // 2))])
        for place in rng.integers(4, len(damaged), 6):
            damaged[place] = int(rng.integers(256))
        (folder / "0" / f"damaged-{number}.{kind.lower()}").write_bytes(damaged)
    catalog = read_catalog(folder)
    check_readable(catalog)
    found = {one.path for one in catalog.pictures} | {one.path for one in catalog.skipped}
    assert sum("damaged" in path for path in found) == 5
    assert sum("damaged" not in path for path in found) == 50


def test_big_pictures_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_digits(tmp_path / "photos", classes=2, each=20)
    monkeypatch.setattr(pictures, "BIG_PIXELS", 10)
    decoding, most, lock, real = [0], [0], threading.Lock(), decode_image

    def decode(path: Path, *formats: Any) -> Image.Image:
        with lock:
            decoding[0] += 1
            most[0] = max(most[0], decoding[0])
        image = real(path, *formats)
        with lock:
            decoding[0] -= 1
        return image

    monkeypatch.setattr("autotune.data.picture.decode_image", decode)
    assert len(read_catalog(tmp_path / "photos").pictures) == 40
    assert most == [1]


def test_a_folder_of_disguised_files_is_refused(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "photos", classes=2, each=10)
    for number in range(5):
        (folder / "1" / f"{number}.jpg").write_bytes(POSTSCRIPT)
    with pytest.raises(DataError, match="5 of 25 pictures cannot be read"):
        check_readable(read_catalog(folder))
    shutil.rmtree(folder)
