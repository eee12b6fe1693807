from collections import Counter
from pathlib import Path

import pytest

from autotune.data.catalog import Catalog
from autotune.data.picture import Picture
from autotune.data.split import PARTS, Split, read_manifest, split_catalog, write_manifest
from autotune.errors import DataError, StudyError


def digest(number: int) -> str:
    return f"{number * 2654435761 % 2**128:032x}"


def catalog(pictures: list[Picture]) -> Catalog:
    classes = tuple(sorted({p.label for p in pictures}))
    return Catalog(Path("x"), classes, tuple(pictures), ())


def many(n: int = 400, classes: int = 4, part: str | None = None) -> list[Picture]:
    return [
        Picture(f"{part or ''}{i % classes}/{i}.png", str(i % classes), part, digest(i), 30, f"{i}") for i in range(n)
    ]


def parts(split: Split) -> dict[str, str]:
    return {p.path: str(p.part) for p in split.pictures}


def test_duplicates_never_cross_splits() -> None:
    pictures = many()
    copies = [Picture(f"{p.label}/copy{i}.png", p.label, None, p.digest, 30, "") for i, p in enumerate(pictures)]
    split = split_catalog(catalog(pictures + copies), seed=0)
    found: dict[str, set[str]] = {}
    for p in split.pictures:
        found.setdefault(p.digest, set()).add(str(p.part))
    assert all(len(names) == 1 for names in found.values())


def test_parts_are_about_80_10_10() -> None:
    counts = split_catalog(catalog(many(4000)), seed=0).counts
    assert abs(counts["validation"] - 400) < 60
    assert abs(counts["test"] - 400) < 60


def test_the_part_of_a_picture_does_not_depend_on_other_pictures() -> None:
    some, all_ = split_catalog(catalog(many(400)), seed=0), split_catalog(catalog(many(800)), seed=0)
    assert parts(some).items() <= parts(all_).items()


def test_another_seed_gives_another_split() -> None:
    assert parts(split_catalog(catalog(many()), 0)) != parts(split_catalog(catalog(many()), 1))


def test_every_class_is_in_every_part_and_the_manifest_notes_moved_pictures(tmp_path: Path) -> None:
    split = split_catalog(catalog(many(40, classes=10)), seed=0)
    for part in PARTS:
        assert {p.label for p in split.part(part)} == set(split.classes)
    assert split.notes
    write_manifest(split, tmp_path / "manifest.csv")
    assert "which had no" in (tmp_path / "manifest.csv").read_text()


def test_too_small_a_class_raises() -> None:
    pictures = [*many(40, 2), *(Picture(f"rare/{i}.png", "rare", None, digest(900 + i), 30, "") for i in range(2))]
    with pytest.raises(DataError, match="'rare' has 2 distinct pictures"):
        split_catalog(catalog(pictures), seed=0)


def test_duplicates_count_as_one_picture_of_a_class() -> None:
    pictures = [*many(40, 2), *(Picture(f"rare/{i}.png", "rare", None, digest(900), 30, "") for i in range(9))]
    with pytest.raises(DataError, match="'rare' has 1 distinct picture "):
        split_catalog(catalog(pictures), seed=0)


def test_a_given_test_set_is_unchanged_and_its_duplicates_leave_the_training_set() -> None:
    train = many(100, part="train")
    test = [
        Picture(f"test/{p.label}/{i}.png", p.label, "test", digest(5000 + i), 30, "") for i, p in enumerate(train[:20])
    ]
    leak = Picture("test/0/leak.png", "0", "test", train[0].digest, 30, "")
    split = split_catalog(catalog([*train, *test, leak]), seed=0)
    assert {p.path for p in split.part("test")} == {p.path for p in (*test, leak)}
    assert [(one.path, one.reason) for one in split.skipped] == [
        (train[0].path, "a duplicate of test/0/leak.png, which is in the test set")
    ]
    assert 3 <= len(split.part("validation")) <= 20
    assert not {p.digest for p in split.part("train")} & {p.digest for p in split.part("test")}


def test_a_class_missing_from_a_given_part_raises() -> None:
    train = many(100, part="train")
    test = [Picture("test/0/x.png", "0", "test", digest(7777), 30, "")]
    with pytest.raises(DataError, match="The test set has no picture of '1', '2', '3'"):
        split_catalog(catalog([*train, *test]), seed=0)


def test_the_gap_sample_is_fixed_and_from_the_training_set() -> None:
    split = split_catalog(catalog(many()), seed=0)
    sample = split.gap_sample
    assert len(sample) == len(split.part("validation"))
    assert all(p.part == "train" for p in sample)
    assert sample == split_catalog(catalog(many()[::-1]), seed=0).gap_sample


def test_a_written_manifest_is_read_back(tmp_path: Path) -> None:
    split = split_catalog(catalog(many()), seed=0)
    write_manifest(split, tmp_path / "manifest.csv")
    assert read_manifest(tmp_path / "manifest.csv") == split.pictures


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "path,label,part,digest,side,stamp\nx,y,train,0,wide,1\n"])
def test_files_that_are_not_manifests_raise(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    if not text:
        assert read_manifest(tmp_path / "m.csv") == ()
        return
    with pytest.raises(StudyError, match="not a manifest"):
        read_manifest(tmp_path / "m.csv")


def test_pictures_of_an_old_manifest_keep_their_parts_with_another_seed() -> None:
    old = split_catalog(catalog(many(400)), seed=0)
    new = split_catalog(catalog(many(500)), seed=9, old=old.pictures)
    assert parts(old).items() <= parts(new).items()
    fresh = Counter(part for path, part in parts(new).items() if path not in parts(old))
    assert set(fresh) == {"train", "validation", "test"}


def test_a_class_not_in_an_old_manifest_is_in_every_part() -> None:
    old = split_catalog(catalog(many(400)), seed=0)
    new = [Picture(f"new/{i}.png", "new", None, digest(9000 + i), 30, "") for i in range(6)]
    split = split_catalog(catalog([*many(400), *new]), seed=0, old=old.pictures)
    assert {str(p.part) for p in split.pictures if p.label == "new"} == set(PARTS)


def test_a_new_picture_that_connects_two_parts_of_an_old_manifest_is_skipped() -> None:
    old = [
        Picture(p.path, p.label, str(p.part), p.digest, 30, p.stamp)
        for p in split_catalog(catalog(many()), seed=0).pictures
    ]
    held = next(p for p in old if p.part == "test")
    other = next(p for p in old if p.part == "train")
    new = [Picture(f"new/{i}.png", "0", None, digest(8000 + i), 30, "") for i in range(2)]
    near = ((held.digest, new[0].digest), (new[0].digest, other.digest), (held.digest, new[1].digest))
    both = Catalog(Path("x"), ("0", "1", "2", "3"), (*many(), *new), (), near[:2])
    split = split_catalog(both, seed=5, old=old)
    assert [one.path for one in split.skipped] == ["new/0.png"]
    assert split.skipped[0].reason.startswith("of the same group as ")
    assert "(test set)" in split.skipped[0].reason
    one = Catalog(Path("x"), ("0", "1", "2", "3"), (*many(), *new), (), near[2:])
    assert parts(split_catalog(one, seed=5, old=old))["new/1.png"] == "test"
    assert parts(split_catalog(one, seed=5, old=old)) | {"new/0.png": "", "new/1.png": ""} == {
        **{p.path: str(p.part) for p in old}, "new/0.png": "", "new/1.png": ""
    }  # fmt: skip


def test_a_named_group_keeps_its_part_when_pictures_are_added() -> None:
    tied = [Picture(p.path, p.label, None, p.digest, 30, p.stamp, f"g{i % 50}") for i, p in enumerate(many())]
    less = split_catalog(catalog(tied[:300]), seed=0)
    more = parts(split_catalog(catalog(tied), seed=0))
    moved = [p.path for p in less.pictures if more[p.path] != p.part and p.path not in less.notes]
    assert moved == []
