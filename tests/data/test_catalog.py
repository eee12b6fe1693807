import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import photos
from PIL import Image

from autotune.data import catalog as catalogs
from autotune.data import datasets, groups
from autotune.data import picture as pictures
from autotune.data.catalog import Catalog, check_readable, read_catalog, refuse_few_classes
from autotune.data.folder import LabelledFile
from autotune.data.picture import Picture, UnreadableError, read_picture
from autotune.errors import DataError


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(6):
            picture(number + 100 * (label == "b")).save(tmp_path / label / f"{number}.png")
    return tmp_path


def reasons(catalog: Catalog) -> dict[str, str]:
    return {one.path: one.reason for one in catalog.skipped}


def test_nested_folders_belong_to_the_class_above(folder: Path) -> None:
    (folder / "a" / "deep" / "deeper").mkdir(parents=True)
    picture(77).save(folder / "a" / "deep" / "deeper" / "x.png")
    catalog = read_catalog(folder)
    assert catalog.counts == {"a": 7, "b": 6}


def test_16_bits_are_scaled_to_8(tmp_path: Path) -> None:
    values = np.array([[0, 257, 65535, 25700]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    assert np.asarray(read_picture(tmp_path / "x.png"))[0, :, 0].tolist() == [0, 1, 255, 100]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = picture(1)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image.save(tmp_path / "x.png", exif=exif)
    upright = read_picture(tmp_path / "x.png")
    assert upright.size == (30, 40)
    assert np.array_equal(np.asarray(upright), np.rot90(np.asarray(image), -1))


def test_transparency_is_rendered_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "x.png")
    assert np.asarray(read_picture(tmp_path / "x.png")).min() == 255


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1", "LA"])
def test_other_modes_are_read_as_rgb(tmp_path: Path, mode: str) -> None:
    name = "x.jpg" if mode == "CMYK" else "x.png"
    picture(2).convert(mode).save(tmp_path / name)
    decoded = read_picture(tmp_path / name)
    expected = np.asarray(picture(2).convert(mode).convert("RGB"), dtype=int)
    assert decoded.mode == "RGB"
    assert np.abs(np.asarray(decoded, dtype=int) - expected).mean() < 12  # JPEG loses a little


def test_unreadable_files_are_skipped_with_a_reason(folder: Path) -> None:
    whole = folder / "a" / "0.png"
    (folder / "a" / "short.png").write_bytes(whole.read_bytes()[:-300])
    (folder / "a" / "empty.jpg").write_bytes(b"")
    (folder / "a" / "text.jpg").write_text("no picture")
    frames = [picture(n) for n in (1, 2)]
    frames[0].save(folder / "b" / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.zeros((4, 4), np.float32)).save(folder / "b" / "float.tiff")
    (folder / "b" / "notes.txt").write_text("x")
    picture(3).save(folder / "loose.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "Thumbs.db").write_bytes(b"")
    catalog = read_catalog(folder)
    found = reasons(catalog)
    assert set(found) == {
        *("a/short.png", "a/empty.jpg", "a/text.jpg"),
        *("b/moving.gif", "b/float.tiff", "b/notes.txt", "loose.png"),
    }
    assert "several frames or pages" in found["b/moving.gif"]
    assert "not in a class folder" in found["loose.png"]
    assert {one.path for one in catalog.skipped if not one.bad} == {"b/notes.txt", "loose.png"}


def test_pictures_with_too_many_pixels_are_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_PIXELS", 40 * 30 - 1)
    with pytest.raises(UnreadableError, match="more than"):
        read_picture(folder / "a" / "0.png")


def test_duplicates_are_found_by_pixels_in_any_file_format(folder: Path) -> None:
    Image.open(folder / "a" / "0.png").save(folder / "a" / "again.bmp")
    Image.open(folder / "a" / "1.png").save(folder / "b" / "other.tiff")
    catalog = read_catalog(folder)
    assert sorted(sorted(p.path for p in group) for group in catalog.duplicates) == [
        ["a/0.png", "a/again.bmp"],
        ["a/1.png", "b/other.tiff"],
    ]
    (wrong,) = groups.conflicting_labels(catalog.duplicates)
    assert sorted(p.path for p in wrong) == ["a/1.png", "b/other.tiff"]


def test_pictures_that_differ_in_one_pixel_are_not_duplicates(folder: Path) -> None:
    image = Image.open(folder / "a" / "0.png")
    image.putpixel((0, 0), (1, 2, 3))
    image.save(folder / "a" / "nearly.png")
    assert read_catalog(folder).duplicates == []


def test_more_than_a_tenth_of_unreadable_pictures_raises(folder: Path) -> None:
    for number in range(2):
        (folder / "a" / f"bad{number}.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="2 of 14") as error:
        check_readable(read_catalog(folder))
    assert "--skip-unreadable" in error.value.fix


def test_one_unreadable_picture_does_not_raise(folder: Path) -> None:
    (folder / "a" / "bad.jpg").write_bytes(b"x")
    check_readable(read_catalog(folder))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda root: None, "contains only one class"),
        (lambda root: (root / "a").rename(root / ".a"), "is empty"),
    ],
)
def test_empty_and_single_class_folders_raise(tmp_path: Path, make: object, problem: str) -> None:
    (tmp_path / "a").mkdir()
    picture(1).save(tmp_path / "a" / "1.png")
    make(tmp_path)  # type: ignore[operator]
    with pytest.raises(DataError, match=problem):
        read_catalog(tmp_path)


def test_a_missing_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_catalog(tmp_path / "nowhere")


def test_a_loop_of_links_is_followed_once(folder: Path) -> None:
    (folder / "a" / "loop").symlink_to(folder / "a", target_is_directory=True)
    assert read_catalog(folder).counts["a"] == 6


def test_parts_are_taken_from_folder_names(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "parted"
    for part in ("train", "valid", "test"):
        for label in ("a", "b"):
            (root / part / label).mkdir(parents=True)
            picture(len(part) + 10 * (label == "b")).save(root / part / label / "1.png")
    (root / "extra").mkdir()
    picture(5).save(root / "extra" / "1.png")
    catalog = read_catalog(root)
    assert {p.path: p.part for p in catalog.pictures}["valid/a/1.png"] == "validation"
    assert catalog.classes == ("a", "b")
    assert "outside test, train, valid" in reasons(catalog)["extra/1.png"]


def test_unchanged_files_are_not_decoded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {p.path: p for p in read_catalog(folder).pictures}
    decoded: list[Path] = []
    real = read_picture

    def read(path: Path) -> Image.Image:
        decoded.append(path)
        return real(path)

    monkeypatch.setattr(catalogs, "read_picture", read)
    picture(99).save(folder / "a" / "0.png")
    read_catalog(folder, known)
    assert [path.name for path in decoded] == ["0.png"]


def test_the_built_in_sample_has_1797_digits(cache: Path) -> None:
    catalog = read_catalog(datasets.write_digits(cache))
    assert len(catalog.pictures) == 1797
    assert len(catalog.classes) == 10
    assert catalog.side == 8


@pytest.mark.parametrize(
    ("name", "n", "classes"),
    [
        ("cats-dogs", 800, 2),
        ("flowers", 500, 5),
        ("hotdog", 600, 2),
        pytest.param("cifar10", 3000, 10, marks=pytest.mark.in_make_faults),
    ],
)
def test_all_pictures_of_real_data_sets_are_read(name: str, n: int, classes: int) -> None:
    catalog = read_catalog(photos(name))
    assert len(catalog.pictures) == n
    assert len(catalog.classes) == classes
    assert not catalog.skipped


def test_file_names_that_are_not_unicode_are_skipped(folder: Path) -> None:
    bad = os.fsencode(folder / "a") + b"/\xff\xfe.png"
    picture(5).save(folder / "a" / "x.png")
    os.rename(os.fsencode(folder / "a" / "x.png"), bad)
    assert [one.reason for one in read_catalog(folder).skipped] == ["its name is not valid Unicode"]


def test_a_study_folder_below_the_pictures_is_not_a_class(folder: Path) -> None:
    study = folder / "studies" / "s"
    (study / "report").mkdir(parents=True)
    for name in ("record.db", "manifest.csv"):
        (study / name).write_bytes(b"")
    picture(5).save(study / "report" / "x.png")
    catalog = read_catalog(folder)
    assert catalog.classes == ("a", "b")
    assert not catalog.skipped


def test_every_exception_of_pillow_on_damaged_files_becomes_unreadable_error(tmp_path: Path) -> None:
    for kind in ("tiff", "jpg", "png", "webp", "gif", "bmp"):
        picture(1).save(tmp_path / f"whole.{kind}")
        whole = (tmp_path / f"whole.{kind}").read_bytes()
        rng = np.random.default_rng(0)
        for _ in range(60):
            damaged = bytearray(whole)
            for place in rng.integers(0, min(len(whole), 400), 4):
                damaged[place] = rng.integers(0, 256)
            (tmp_path / f"x.{kind}").write_bytes(damaged)
            try:
                read_picture(tmp_path / f"x.{kind}")
            except UnreadableError:
                continue


def test_heic_pictures_are_read(folder: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(picture(7)).save(folder / "a" / "x.heic")
    read = read_picture(folder / "a" / "x.heic")
    assert np.abs(np.asarray(read, dtype=int) - np.asarray(picture(7), dtype=int)).mean() < 16
    assert len(read_catalog(folder).pictures) == 13


def test_unsupported_formats_name_the_package_that_reads_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a" / "x.CR2").write_bytes(b"II*\0 raw")
    (folder / "a" / "y.heic").write_bytes(b"ftypheic")
    known = {end: kind for end, kind in Image.registered_extensions().items() if end != ".heic"}
    monkeypatch.setattr(Image, "registered_extensions", lambda: known)  # as if the extra were not installed
    catalog = read_catalog(folder)
    assert "rawpy" in reasons(catalog)["a/x.CR2"]
    assert "pillow-heif" in reasons(catalog)["a/y.heic"]
    with pytest.raises(DataError, match=r"2 of 14 pictures cannot be read .*rawpy"):
        check_readable(catalog)


class Sink:
    """Records its calls."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.offered: dict[str, tuple[int, int]] = {}
        self.is_closed = False

    def begin(self, root: Path, files: Sequence[LabelledFile]) -> None:
        self.started.append(sum((root / file.path).is_file() for file in files))

    def offer(self, picture: Picture, image: Image.Image) -> None:
        assert self.started
        assert not self.is_closed
        self.offered[picture.path] = image.size

    def close(self) -> None:
        self.is_closed = True


def test_a_sink_receives_every_decoded_picture(folder: Path) -> None:
    (folder / "a" / "bad.jpg").write_bytes(b"x")
    sink = Sink()
    catalog = read_catalog(folder, sink=sink)
    assert sink.started == [13]
    assert sink.offered == {picture.path: (40, 30) for picture in catalog.pictures}
    assert sink.is_closed
    again = Sink()
    read_catalog(folder, {picture.path: picture for picture in catalog.pictures}, sink=again)
    assert again.offered == {}


def test_an_error_in_a_sink_stops_reading(folder: Path) -> None:
    class Full(Sink):
        def offer(self, picture: Picture, image: Image.Image) -> None:
            raise DataError("Full.", "Empty it.")

    sink = Full()
    with pytest.raises(DataError, match="Full"):
        read_catalog(folder, sink=sink)
    assert not sink.is_closed


def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a").mkdir()
    monkeypatch.setattr("os.scandir", refuse)
    monkeypatch.setattr("os.listdir", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        refuse_few_classes(tmp_path)
