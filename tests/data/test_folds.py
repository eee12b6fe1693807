from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.data.catalog import Catalog
from autotune.data.folds import assign_folds, class_gaps, fold_count
from autotune.data.picture import Picture
from autotune.data.split import TRAIN, VALIDATION, Split, split_catalog


def digest(number: int) -> str:
    return f"{number * 2654435761 % 2**128:032x}"


def of_class(label: str, n: int, first: int, part: str | None = None) -> list[Picture]:
    return [
        Picture(f"{part or ''}/{label}/{i}.png", label, part, digest(i), 30, f"{i}") for i in range(first, first + n)
    ]


def small_classes() -> list[Picture]:
    """21 classes of 5 to 40 pictures."""
    return [p for c in range(21) for p in of_class(f"c{c:02}", 5 + round(c * 35 / 20), 1000 * c)]


def split_of(*pictures: Picture, near: tuple[tuple[str, str], ...] = (), seed: int = 0) -> Split:
    classes = tuple(sorted({p.label for p in pictures}))
    return split_catalog(Catalog(Path("x"), classes, pictures, (), near), seed)


def made(*pictures: Picture) -> Split:
    """A split of pictures that have parts."""
    return Split(tuple(sorted({p.label for p in pictures})), pictures, (), {})


def pool(split: Split) -> tuple[Picture, ...]:
    return (*split.part(TRAIN), *split.part(VALIDATION))


def folds(split: Split) -> dict[str, int]:
    """The fold of each picture by its digest."""
    return {p.digest: fold for p, fold in zip(pool(split), assign_folds(split), strict=True)}


@pytest.mark.parametrize(
    ("n_train", "n_validation", "expected"),
    [(8, 2, 5), (17, 4, 5), (19, 4, 6), (1, 10, 2), (4, 100, 2), (9, 1, 10), (400, 2, 10)],
)
def test_folds_are_about_as_large_as_the_validation_set(n_train: int, n_validation: int, expected: int) -> None:
    split = made(*of_class("a", n_train, 0, "train"), *of_class("a", n_validation, 1000, "validation"))
    assert fold_count(split) == expected
    assert set(assign_folds(split)) == set(range(expected))


def test_the_validation_set_is_fold_0_also_if_it_was_given_or_is_of_an_older_manifest() -> None:
    drawn = split_of(*small_classes())
    given = split_of(*of_class("a", 40, 0, "train"), *of_class("a", 7, 100, "validation"))
    catalog = Catalog(Path("x"), ("a",), tuple(of_class("a", 60, 0)), ())
    old = [replace(p, part="validation" if i % 5 == 0 else "train") for i, p in enumerate(of_class("a", 40, 0))]
    kept = split_catalog(catalog, seed=0, old=[*old[1:], replace(old[0], part="test")])
    for split in (drawn, given, kept):
        assert {d for d, fold in folds(split).items() if fold == 0} == {p.digest for p in split.part(VALIDATION)}


@pytest.mark.parametrize("seed", range(5))
def test_folds_are_near_equal_in_size(seed: int) -> None:
    split = split_of(*small_classes(), seed=seed)
    sizes = Counter(assign_folds(split))
    mean = len(pool(split)) / len(sizes)
    assert len(sizes) == fold_count(split) in (4, 5, 6)
    assert all(0.85 * mean < size < 1.15 * mean for size in sizes.values())


@pytest.mark.parametrize("n_validation", [1, 2, 4])
def test_the_groups_of_a_class_are_spread_evenly_over_the_training_folds(n_validation: int) -> None:
    pictures = [replace(p, part=TRAIN) for p in small_classes()]
    held = [p for c in range(21) for p in of_class(f"c{c:02}", n_validation, 1000 * c + 500, VALIDATION)]
    split = made(*pictures, *held)
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for picture, fold in zip(pool(split), assign_folds(split), strict=True):
        counts[picture.label][fold] += 1
    training = range(1, fold_count(split))
    assert all(
        max(found[fold] for fold in training) - min(found[fold] for fold in training) <= 1 for found in counts.values()
    )


def test_small_classes_are_not_all_in_the_same_folds() -> None:
    """30 classes of one training group; 8 training folds, as the largest class has."""
    pictures = [p for c in range(30) for p in of_class(f"c{c:02}", 1 + 7 * (c == 0), 1000 * c, TRAIN)]
    split = made(*pictures, *of_class("c00", 1, 90_000, VALIDATION))
    sizes = Counter(fold for fold in assign_folds(split) if fold)
    assert set(sizes) == set(range(1, 9))
    assert max(sizes.values()) <= 2.5 * 37 / 8


def test_copies_never_cross_folds() -> None:
    pictures = small_classes()
    copies = [replace(p, path=f"copy/{p.path}") for p in pictures[::3]]
    tied = [replace(p, group=f"burst{i // 4}") for i, p in enumerate(of_class("c20", 60, 50_000))]
    tied += [replace(p, group=f"{p.stamp}") for p in of_class("c20", 12, 60_000)]
    untied = [replace(p, path=f"copy/{p.path}", group="") for p in tied[::2]]  # copies that the table does not group
    near = tuple((one.digest, other.digest) for one, other in zip(pictures[::5], pictures[1::5], strict=False))
    split = split_of(*pictures, *copies, *tied, *untied, near=near)
    by_path = {p.path: fold for p, fold in zip(pool(split), assign_folds(split), strict=True)}
    by_digest: dict[str, set[int]] = defaultdict(set)
    for picture in pool(split):
        by_digest[picture.digest].add(by_path[picture.path])
    assert max(len(found) for found in by_digest.values()) == 1
    pairs = [(one, other) for one, other in near if one in by_digest and other in by_digest]
    assert len(pairs) > 50
    assert all(by_digest[one] == by_digest[other] for one, other in pairs)
    for number in range(0, 60, 4):
        assert len({fold for p in tied[number : number + 4] for fold in by_digest.get(p.digest, ())}) <= 1


def test_folds_depend_on_content_not_on_order_or_paths() -> None:
    pictures = small_classes()
    renamed = [replace(p, path=f"{hash(p.digest)}.png", stamp="") for p in pictures[::-1]]
    assert folds(split_of(*pictures)) == folds(split_of(*renamed))
    ones, others = of_class("a", 8, 0, TRAIN), of_class("b", 8, 100, TRAIN)
    mixed = [replace(p, group=f"g{i}") for pair in (ones, others) for i, p in enumerate(pair)]
    rest = [*of_class("b", 6, 200, TRAIN), *of_class("a", 3, 300, VALIDATION), *of_class("b", 3, 400, VALIDATION)]
    swapped = [replace(one, path=other.path) for one, other in zip(mixed, mixed[::-1], strict=True)]
    assert folds(made(*mixed, *rest)) == folds(made(*rest[::-1], *swapped[::-1]))


def test_an_added_picture_moves_only_pictures_of_its_class_near_the_boundaries_of_folds() -> None:
    before = made(*of_class("a", 40, 0, TRAIN), *of_class("b", 40, 100, TRAIN), *of_class("a", 20, 200, VALIDATION))
    assert fold_count(before) == 5
    for number in range(300, 340):
        after = made(*before.pictures, *of_class("a", 1, number, TRAIN))
        changed = {d for d, fold in folds(before).items() if folds(after)[d] != fold}
        assert len(changed) <= 3  # one for each of the boundaries between four folds
        assert not changed & {p.digest for p in before.pictures if p.label == "b"}


def test_the_pictures_outside_of_each_fold_contain_every_class() -> None:
    pictures = [*small_classes(), *of_class("rare", 3, 90_000)]
    split = split_of(*pictures)
    assigned = assign_folds(split)
    for held_out in range(fold_count(split)):
        kept = {p.label for p, fold in zip(pool(split), assigned, strict=True) if fold != held_out}
        assert kept == set(split.classes)


def test_no_fold_is_empty_if_the_training_set_has_few_groups() -> None:
    """Two classes of two patients each, of 100 pictures in training: 51 folds by the number of pictures."""
    train = [
        replace(p, group=f"{label}{i % 2}")
        for label, first in (("a", 0), ("b", 1000))
        for i, p in enumerate(of_class(label, 100, first, TRAIN))
    ]
    split = made(*train, *of_class("a", 2, 5000, VALIDATION), *of_class("b", 2, 6000, VALIDATION))
    assert fold_count(split) == 3
    assert set(assign_folds(split)) == {0, 1, 2}


def test_the_classes_missing_from_some_folds_are_listed() -> None:
    train = [*of_class("few", 3, 0, TRAIN), *of_class("many", 40, 100, TRAIN)]
    held = [*of_class("few", 8, 1000, VALIDATION), *of_class("many", 3, 2000, VALIDATION)]
    split = made(*train, *held)
    assert fold_count(split) == 5
    assert class_gaps(split) == ("few",)
    assert class_gaps(made(*train, *of_class("few", 1, 900, TRAIN), *held)) == ()
