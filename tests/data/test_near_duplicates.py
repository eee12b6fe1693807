from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import photos
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from autotune.data import groups
from autotune.data.catalog import read_catalog
from autotune.data.near_duplicates import find_near_duplicates, thumbnail
from autotune.data.split import split_catalog

KINDS: dict[str, Callable[[Image.Image, Path], None]] = {
    "saved again": lambda image, file: image.save(file.with_suffix(".jpg"), quality=60),
    "resized": lambda image, file: image.resize((image.width * 2 // 3, image.height * 2 // 3)).save(file),
    "cropped": lambda image, file: image.crop((3, 0, image.width, image.height - 2)).save(file),
    "brightened": lambda image, file: ImageEnhance.Brightness(image).enhance(1.25).save(file),
    "mirrored": lambda image, file: ImageOps.mirror(image).save(file),
}


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    """Squares of 160 pixels from scikit-learn's two sample photos; each is a distinct picture."""
    found = []
    for photo in load_sample_images().images:
        for top in range(0, 427 - 160, 160):
            found += [Image.fromarray(photo[top : top + 160, left : left + 160]) for left in range(0, 640, 160)]
    return found


@pytest.fixture
def folder(scenes: list[Image.Image], tmp_path: Path) -> Path:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
    for number, scene in enumerate(scenes):
        scene.save(tmp_path / "ab"[number % 2] / f"{number:02d}.png")
    return tmp_path


@pytest.mark.parametrize("kind", list(KINDS))
def test_slightly_changed_duplicates_are_found_and_no_other_pairs(folder: Path, kind: str) -> None:
    for file in sorted(folder.glob("a/*.png"))[4:]:  # flowers; near-duplicates of a plain sky are not found
        KINDS[kind](Image.open(file), folder / "b" / f"{file.stem}-changed.png")
    catalog = read_catalog(folder)
    found = [
        sorted(p.path.partition(".")[0] for p in group)
        for group in groups.find_duplicates(catalog.pictures, catalog.near)
    ]
    assert sorted(found) == [[f"a/{n}", f"b/{n}-changed"] for n in ("08", "10", "12", "14")]


def test_near_duplicates_are_in_the_same_part_and_their_labels_are_compared(folder: Path) -> None:
    for file in sorted(folder.glob("*/*.png")):
        for number, zoom in enumerate((0.99, 0.98)):
            image = Image.open(file)
            width = round(image.width * zoom)
            image.crop((0, 0, width, width)).save(folder / "a" / f"{file.stem}-{number}.jpg")
    catalog = read_catalog(folder)
    split = split_catalog(catalog, seed=0)
    parts: dict[str, set[str | None]] = {}
    for p in split.pictures:
        parts.setdefault(Path(p.path).stem[:2], set()).add(p.part)
    assert len(parts) == 16
    assert all(len(found) == 1 for found in parts.values())
    duplicates = groups.find_duplicates(catalog.pictures, catalog.near)
    assert len(groups.near_duplicates(duplicates)) == 16
    assert len(groups.conflicting_labels(duplicates)) == 8


def test_a_given_test_set_is_unchanged_and_its_near_duplicates_leave_the_training_set(
    folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "given"
    for number, file in enumerate(sorted(folder.glob("*/*.png"))):
        part = "test" if number % 4 == 0 else "train"
        (root / part / file.parent.name).mkdir(parents=True, exist_ok=True)
        file.rename(root / part / file.parent.name / file.name)
    leak = sorted(root.glob("test/a/*.png"))[0]
    ImageOps.mirror(Image.open(leak)).save(root / "train" / "a" / "leak.png")
    split = split_catalog(read_catalog(root), seed=0)
    assert [(one.path, one.reason) for one in split.skipped] == [
        ("train/a/leak.png", f"a near-duplicate of test/a/{leak.name}, which is in the test set")
    ]


def test_pictures_of_the_same_scene_are_not_near_duplicates(scenes: list[Image.Image]) -> None:
    rng = np.random.default_rng(0)
    thumbs = []
    for _ in range(40):
        part = np.asarray(scenes[0]).copy()
        top, left = rng.integers(0, 140, 2)
        part[top : top + 20, left : left + 20] = rng.integers(0, 255, 3)  # a defect at a random place
        thumb = thumbnail(Image.fromarray(part))
        assert thumb is not None
        thumbs.append(thumb)
    assert find_near_duplicates(thumbs) is None


def test_small_and_blank_pictures_are_not_compared() -> None:
    assert thumbnail(Image.new("RGB", (200, 200), "white")) is None
    assert thumbnail(Image.fromarray(np.random.default_rng(0).integers(0, 255, (28, 28, 3), dtype=np.uint8))) is None


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("cats-dogs", 0),
        ("flowers", 0),
        ("hotdog", 2),
        ("produce", 1),
        pytest.param("cifar10", 1, marks=pytest.mark.in_make_faults),
    ],
)
def test_real_data_sets_have_no_false_pairs(name: str, n: int) -> None:
    """The pairs were inspected: two hot dogs saved twice, an avocado shelf shot twice, a truck twice in CIFAR-10."""
    assert len(read_catalog(photos(name)).near or ()) == n
