from pathlib import Path

import pytest
from PIL import Image

from autotune.report.thumbnails import Thumbnail, first_shown, thumbnail


def test_large_pictures_are_reduced_and_tiny_ones_keep_every_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (800, 400), "red").save(tmp_path / "large.jpg")
    Image.new("L", (8, 8), 7).save(tmp_path / "tiny.png")
    large, tiny = (thumbnail(tmp_path, name) for name in ("large.jpg", "tiny.png"))
    assert (large.width, large.height, large.is_tiny) == (160, 80, False)
    assert (tiny.width, tiny.height, tiny.is_tiny) == (8, 8, True)
    assert (large.source or "").startswith("data:image/jpeg;base64,")
    assert (tiny.source or "").startswith("data:image/png;base64,")


@pytest.mark.parametrize("name", ["missing.png", "broken.png", "zero\0.png", "folder"])
def test_a_picture_that_cannot_be_displayed_has_no_source(tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.png").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    assert thumbnail(tmp_path, name) == Thumbnail(name)
    assert first_shown(tmp_path, [name], 3) == []
