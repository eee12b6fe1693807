import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from conftest import write_digits
from PIL import Image

from autotune.data.catalog import Catalog, read_catalog
from autotune.data.folds import assign_folds
from autotune.data.picture import read_picture
from autotune.data.split import TEST, TRAIN, VALIDATION, split_catalog
from autotune.data.visits import read_shot
from autotune.errors import ConfigError, DataError

EXIF, TAKEN, EDITED, MAKE, MODEL = 0x8769, 0x9003, 0x0132, 0x010F, 0x0110
START = datetime(2024, 5, 1, 10)


def rename(folder: Path, name: Callable[[str, int], str], classes: int = 3, each: int = 30) -> Path:
    """Write digits, and rename the file number i of each class to name(label, i)."""
    write_digits(folder, classes, each)
    for label in range(classes):
        for i, file in enumerate(sorted((folder / str(label)).iterdir())):
            to = folder / str(label) / name(str(label), i)
            to.parent.mkdir(exist_ok=True)
            file.rename(to)
    return folder


def set_times(folder: Path, time: Callable[[int], str], camera: str = "X1", tag: int = TAKEN) -> Path:
    """Give the files of each class the EXIF time time(i)."""
    for inner in sorted(folder.iterdir()):
        for i, file in enumerate(sorted(inner.iterdir())):
            exif = Image.Exif()
            exif[MAKE], exif[MODEL] = "Cam", camera
            exif.update({tag: time(i)} if tag == EDITED else {EXIF: {tag: time(i)}})  # Pillow 11.0 saves no `get_ifd`
            with Image.open(file) as image:
                image.save(file, exif=exif)
    return folder


def exif_time(when: datetime) -> str:
    return when.strftime("%Y:%m:%d %H:%M:%S")


def parts_of_groups(catalog: Catalog, seed: int = 0) -> Mapping[str, set[tuple[str | None, int]]]:
    """Return the (part, fold) pairs of each group in a split."""
    split = split_catalog(catalog, seed)
    pool = (*split.part(TRAIN), *split.part(VALIDATION))
    fold = {p.path: f for p, f in zip(pool, assign_folds(split), strict=True)}
    found = defaultdict(set)
    for p in split.pictures:
        if p.group:
            found[p.group].add((p.part, fold.get(p.path, -1)))
    return found


def test_visits_by_capture_time_are_separated_by_an_hour_and_by_camera(digits: Path) -> None:
    set_times(digits, lambda i: exif_time(START + timedelta(hours=i // 10 * 1.5, minutes=i)))
    for file in sorted((digits / "2").iterdir()):
        with Image.open(file) as image:
            exif = image.getexif()
            exif[MODEL] = "X2"
            image.save(file, exif=exif)
    catalog = read_catalog(digits)
    assert (catalog.visits.by, catalog.visits.n, catalog.visits.n_pictures) == ("time", 10, 150)
    visits = defaultdict(set)
    for p in catalog.pictures:
        visits[p.group].add((p.label, Path(p.path).name))
    labels = [sorted({label for label, _ in members}) for members in visits.values()]
    assert sorted(labels) == [["0", "1"]] * 5 + [["2"]] * 5
    assert all(len(places) == 1 for places in parts_of_groups(catalog).values())


def test_a_visit_may_last_over_midnight_and_a_day_may_have_several(digits: Path) -> None:
    night = datetime(2024, 5, 1, 23, 30)
    set_times(digits, lambda i: exif_time(night + timedelta(hours=12 * (i // 10), minutes=5 * (i % 10))))
    catalog = read_catalog(digits)
    assert catalog.visits.n == 5
    assert all(len({p.group for p in catalog.pictures if f"{p.label}/" in p.path}) == 5 for _ in catalog.classes)


def test_the_time_of_editing_and_a_constant_time_show_no_visits(tmp_path: Path) -> None:
    edited = set_times(write_digits(tmp_path / "a"), lambda i: exif_time(START + timedelta(days=i // 10)), tag=EDITED)
    reset = set_times(write_digits(tmp_path / "b"), lambda i: "2000:01:01 00:00:00")
    assert [read_catalog(folder).visits.n for folder in (edited, reset)] == [0, 0]


@pytest.mark.parametrize("text", ["", "0000:00:00 00:00:00", "yesterday", "2024:13:45 10:00:00"])
def test_a_picture_with_an_invalid_time_is_used(digits: Path, text: str) -> None:
    set_times(digits, lambda i: text)
    catalog = read_catalog(digits)
    assert (len(catalog.pictures), catalog.visits.n, catalog.signals[1].groups) == (150, 0, {})


def test_a_picture_with_damaged_exif_data_is_used(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    Image.new("RGB", (40, 40), "red").save(file, exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff\x00\x07garbage")
    assert read_shot(read_picture(file)) is None


@pytest.mark.filterwarnings("error")
def test_mutated_exif_data_never_raise_and_name_cameras_printably() -> None:
    exif = Image.Exif()
    exif[MAKE], exif[MODEL] = "Cam", "X1\x00\nY\x1b[31m"
    exif[EXIF] = {TAKEN: exif_time(START)}
    whole, rng = exif.tobytes(), random.Random(0)
    found = []
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(rng.randint(0, 2)):
            data[rng.randrange(6, len(data))] = rng.randrange(256)
        image = Image.new("RGB", (8, 8))
        image.info["exif"] = bytes(data)
        found.append(read_shot(image))
    cameras = {shot.camera for shot in found if shot}
    assert "Cam X1Y[31m" in cameras or "Cam X1" in cameras
    assert all(camera.isprintable() for camera in cameras)


@pytest.mark.parametrize(
    ("name", "n"),
    [
        (lambda label, i: f"burst_{i // 6:02d}_{i % 6}.png", 15),
        (lambda label, i: f"clip{i // 5}-frame{i:04d}.png", 18),
        (lambda label, i: f"clip{i // 5} frame {i}.png", 18),
        (lambda label, i: f"2024-05-{i // 6 + 1:02d}_IMG_{i:04d}.png", 5),
        (lambda label, i: f"IMG-202405{i // 6 + 1:02d}-WA{i:04d}.png", 5),
        (lambda label, i: f"PXL_20240501_{10 + 2 * (i // 6):02d}30{i % 6:02d}123.png", 5),
        (lambda label, i: f"IMG_{i:04d}.png", 0),
        (lambda label, i: f"Royal-Gala_{i:03d}.png", 0),
        (lambda label, i: f"{1000003 * (i + 1)}_e6dd9{i}f_n.png", 0),
        (lambda label, i: f"{label}.{i}.png", 0),
        (lambda label, i: f"IMG_{i:04d}_1.png", 0),  # a series of one picture each
    ],
)
def test_names_show_visits_by_dates_and_series_but_not_by_a_mere_counter(
    tmp_path: Path, name: Callable[[str, int], str], n: int
) -> None:
    catalog = read_catalog(rename(tmp_path / "photos", name))
    assert catalog.visits.n == n
    assert all(len(places) == 1 for places in parts_of_groups(catalog).values())


def test_dates_are_the_same_visit_in_all_classes_and_series_are_not(tmp_path: Path) -> None:
    dated = read_catalog(rename(tmp_path / "a", lambda label, i: f"2024-05-{i // 6 + 1:02d}_{i}.png"))
    series = read_catalog(rename(tmp_path / "b", lambda label, i: f"burst_{i // 6}_{i}.png"))
    assert len({(p.group, p.label) for p in dated.pictures}) == 3 * dated.visits.n
    assert len({(p.group, p.label) for p in series.pictures}) == series.visits.n


def test_folders_below_a_class_are_visits_if_they_are_numbered(tmp_path: Path) -> None:
    numbered = read_catalog(rename(tmp_path / "a", lambda label, i: f"visit {i // 6}/{i}.png"))
    kinds = ("gala", "fuji", "elstar", "jonagold", "cox")
    named = read_catalog(rename(tmp_path / "b", lambda label, i: f"{kinds[i // 6]}/{i}.png"))
    assert (numbered.visits.by, numbered.visits.n, named.visits.n) == ("folder", 15, 0)


def test_a_class_with_too_few_visits_is_split_by_picture_and_named(tmp_path: Path) -> None:
    photos = rename(tmp_path / "p", lambda label, i: f"burst_{i // 15 if label == '1' else i // 5}_{i}.png")
    catalog = read_catalog(photos)
    assert (catalog.visits.by_picture, catalog.visits.n) == (("1",), 12)
    assert all(not p.group for p in catalog.pictures if p.label == "1")
    split = split_catalog(catalog, seed=0)
    assert {p.label for p in split.part(TEST)} == {"0", "1", "2"}


def test_given_sets_are_used_as_they_are_and_the_visits_that_cross_them_are_counted(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for part, first in (("train", 0), ("test", 40)):
        write_digits(photos / part, 3, 40 if part == "train" else 10, first)
        for label in range(3):
            for i, file in enumerate(sorted((photos / part / str(label)).iterdir()), first):
                file.rename(file.with_name(f"burst_{i // 8}_{i}.png"))
    catalog = read_catalog(photos)
    split = split_catalog(catalog, seed=0)
    assert (catalog.visits.crossing, split.skipped, len(split.part(TEST))) == (0, (), 30)
    for file in (photos / "test").rglob("burst_5_*"):
        file.rename(file.with_name(file.name.replace("burst_5", "burst_4")))
    catalog = read_catalog(photos)
    split = split_catalog(catalog, seed=0)
    assert (catalog.visits.crossing, split.skipped, len(split.part(TEST))) == (3, (), 30)


def test_a_pattern_groups_by_its_first_group_or_by_the_whole_match(tmp_path: Path) -> None:
    photos = rename(tmp_path / "p", lambda label, i: f"IMG_{i:04d} shelf{chr(97 + i // 6)}.png")
    for pattern in (r"shelf(.)", r"shelf.", r"(aisle.)|(shelf.)"):
        catalog = read_catalog(photos, group_by=pattern)
        assert (catalog.visits.by, catalog.visits.n) == ("pattern", 5)
    assert read_catalog(photos).visits.n == 0


def test_none_groups_nothing_but_tells_what_it_saw(tmp_path: Path) -> None:
    catalog = read_catalog(rename(tmp_path / "p", lambda label, i: f"burst_{i // 6}_{i}.png"), group_by="none")
    assert catalog.visits.n == 0
    assert {one.by: one.n_visits for one in catalog.signals}["name"] == 15


def test_a_pattern_that_is_invalid_and_a_signal_that_no_picture_has_are_refused(digits: Path) -> None:
    with pytest.raises(ConfigError, match="not a way to group"):
        read_catalog(digits, group_by="(")
    with pytest.raises(DataError, match="No picture has a capture time"):
        read_catalog(digits, group_by="time")
    with pytest.raises(DataError, match="matches 'shelf'"):
        read_catalog(digits, group_by="shelf")
