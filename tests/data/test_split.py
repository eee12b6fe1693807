import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.data.catalog import Catalog
from autotune.data.picture import Picture
from autotune.data.split import PARTS, Split, hash_position, read_manifest, split_catalog, write_manifest
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


@pytest.mark.parametrize(("n", "expected"), [(2000, 360), (3000, 500), (4500, 500), (8000, 720)])
def test_the_validation_set_has_500_pictures_but_a_tenth_to_a_fifth_of_the_pool(n: int, expected: int) -> None:
    counts = split_catalog(catalog(many(n)), seed=0).counts
    assert abs(counts["validation"] - expected) < 0.12 * expected
    assert abs(counts["test"] - n / 10) < 0.12 * n / 10


def part_by_position(position: float, validation: float, test: float) -> str:
    return "test" if position < test else "validation" if position < test + validation else "train"


def test_explicit_shares_are_of_all_pictures() -> None:
    split = split_catalog(catalog(many(2000)), seed=3, validation=0.3, test=0.2)
    assert not split.notes
    assert all(p.part == part_by_position(hash_position(p.digest, "3"), 0.3, 0.2) for p in split.pictures)


def test_the_test_set_does_not_depend_on_the_validation_share() -> None:
    splits = [split_catalog(catalog(many(2000)), seed=0, validation=share) for share in (None, 0.1, 0.4)]
    assert len({split.part("test") for split in splits}) == 1
    assert len({split.part("validation") for split in splits}) == 3


@pytest.mark.parametrize("validation", [None, 0.1])
def test_a_given_validation_set_gets_no_other_picture(validation: float | None) -> None:
    given = [replace(p, part="validation", digest=digest(5000 + i)) for i, p in enumerate(many(12, part="val"))]
    split = split_catalog(catalog([*many(400, part="train"), *given]), seed=0, validation=validation)
    assert {p.path for p in split.part("validation")} == {p.path for p in given}
    assert 20 < len(split.part("test")) < 60


@pytest.mark.parametrize("validation", [None, 0.2])
def test_with_a_given_test_set_the_validation_set_is_a_fifth_of_the_others(validation: float | None) -> None:
    given = [replace(p, part="test", digest=digest(5000 + i)) for i, p in enumerate(many(900, part="test"))]
    split = split_catalog(catalog([*many(1000, part="train"), *given]), seed=0, validation=validation)
    assert len(split.part("test")) == 900
    assert abs(len(split.part("validation")) - 200) < 25


def small_classes(seed: int = 0) -> list[Picture]:
    """21 classes of 5 to 46 pictures."""
    return [
        Picture(f"c{c:02}/{i}.png", f"c{c:02}", None, digest(1000 * (21 * seed + c) + i), 30, "")
        for c in range(21)
        for i in range(5 + round(c * 41 / 20))
    ]


@pytest.mark.parametrize("validation", [None, 0.25])
def test_every_class_has_half_of_its_share_in_every_part_and_most_in_the_training_set(
    validation: float | None,
) -> None:
    share = 0.9 * 0.2 if validation is None else validation
    n_moved = 0
    for seed in range(10):
        split = split_catalog(catalog(small_classes(seed)), seed=seed, validation=validation)
        counts = Counter((p.label, str(p.part)) for p in split.pictures)
        for label in split.classes:
            train, val, test = (counts[label, part] for part in PARTS)
            assert val >= max(math.ceil(round(share * (train + val + test) / 2, 6)), 1)
            assert test >= max(math.ceil(round(0.1 * (train + val + test) / 2, 6)), 1)
        n_moved += len(split.notes)
        by_hash = {p.path: part_by_position(hash_position(p.digest, str(seed)), share, 0.1) for p in split.pictures}
        assert set(split.notes) == {p.path for p in split.pictures if p.part != by_hash[p.path]}
    assert n_moved > 10


def at(low: float, high: float, n: int, label: str, first: int) -> list[Picture]:
    """Return pictures of a class with hash positions in a range."""
    numbers = [i for i in range(first, first + 20_000) if low <= hash_position(digest(i), "0") < high][:n]
    return [Picture(f"{label}/{i}.png", label, None, digest(i), 30, "") for i in numbers]


def test_a_note_counts_the_pictures_that_a_part_had() -> None:
    rare = [*at(0, 0.1, 1, "x", 10_000), *at(0.3, 1, 45, "x", 40_000)]
    split = split_catalog(catalog([*many(400), *rare]), seed=0)
    assert Counter(split.notes.values()) == {
        "moved from the training set to the test set, which had 1 of 46 pictures of 'x'": 2,
        "moved from the training set to the validation set, which had no picture of 'x'": 5,
    }
    nearest = sorted(rare, key=lambda p: hash_position(p.digest, "0"))[1:8]
    assert set(split.notes) == {p.path for p in nearest}


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.1), (0.1, 0.28), (0.28, 1.0), (0.0, 1.0)])
def test_three_pictures_of_a_class_are_one_in_each_part(low: float, high: float) -> None:
    rare = at(low, high, 3, "x", 10_000)
    split = split_catalog(catalog([*many(400), *rare]), seed=0)
    assert {p.part for p in split.pictures if p.label == "x"} == set(PARTS)


def test_a_class_gets_no_picture_that_another_class_needs() -> None:
    """Class y has no picture in the test set. Its next group is the only one of class x in the training set."""
    x = [*at(0, 0.1, 1, "x", 10_000), *at(0.1, 0.28, 1, "x", 20_000), *at(0.28, 0.3, 1, "x", 30_000)]
    y = [*at(0.1, 0.28, 1, "y", 40_000), *at(0.31, 1, 4, "y", 50_000), replace(x[-1], path="y/copy.png", label="y")]
    split = split_catalog(catalog([*many(400), *x, *y]), seed=0)
    assert {(p.label, p.part) for p in split.pictures} == {(label, part) for label in "0123xy" for part in PARTS}
    assert "x" not in {p.label for p in split.pictures if p.path in split.notes}


def patients(seed: int, sizes: tuple[int, ...]) -> list[Picture]:
    """Groups of the given sizes, each with pictures of two classes."""
    return [
        Picture(f"{'ab'[i % 2]}/{n}-{i}.png", "ab"[i % 2], None, digest(10_000 * seed + 100 * n + i), 30, "", f"g{n}")
        for n, size in enumerate(sizes)
        for i in range(size)
    ]


def test_groups_of_several_classes_are_moved_whole_and_leave_every_class_in_every_part() -> None:
    moved = 0
    for seed in range(20):
        split = split_catalog(catalog(patients(seed, (4, 6, 4, 6, 4, 6, 4))), seed=seed)
        assert len({(p.group, p.part) for p in split.pictures}) == 7
        assert {(p.label, p.part) for p in split.pictures} == {(label, part) for label in "ab" for part in PARTS}
        moved += len(split.notes)
    assert moved > 0


def test_a_group_with_most_pictures_of_a_class_is_not_moved_from_the_training_set() -> None:
    n_noted = 0
    for seed in range(40):
        pictures = patients(seed, (40, 4, 4, 4, 4, 4, 4, 4))
        split = split_catalog(catalog(pictures), seed=seed)
        if part_by_position(hash_position("group:g0", str(seed)), 0.18, 0.1) == "train":
            assert {p.part for p in split.pictures if p.group == "group:g0"} == {"train"}
            n_noted += bool(split.notes)
    assert n_noted > 10


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


def test_a_manifest_moves_nothing() -> None:
    """Classes of an older manifest keep their split, even if a part has few pictures of them."""
    old = [replace(p, part="test" if i < 4 else "validation" if i < 8 else "train") for i, p in enumerate(many(400))]
    new = [Picture(f"new/{i}.png", "0", None, digest(9000 + i), 30, "") for i in range(100)]
    split = split_catalog(catalog([*many(400), *new]), seed=0, old=old)
    assert split.notes == {}
    assert {p.path: p.part for p in old}.items() <= parts(split).items()
    assert all(p.part == part_by_position(hash_position(p.digest, "0"), 0.18, 0.1) for p in split.pictures
               if p.path.startswith("new"))  # fmt: skip


def test_the_pictures_of_a_manifest_count_for_the_default_share_of_new_pictures() -> None:
    old = [replace(p, part="test" if i < 4 else "validation" if i < 8 else "train") for i, p in enumerate(many(6000))]
    split = split_catalog(catalog(many(8000)), seed=0, old=old)
    assert abs(len(split.part("validation")) - 4 - 0.09 * 2000) < 40


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
