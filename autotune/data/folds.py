"""Folds of the pool, the training and validation set together, for cross-validation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from autotune.data.groups import Groups, is_group_key
from autotune.data.picture import Picture
from autotune.data.split import TRAIN, VALIDATION, Split, hash_position


def fold_count(split: Split) -> int:
    """Return the number of folds, 2 to 10, that are about as large as the validation set.

    There are no more training folds than the largest class has groups, so none is empty.
    """
    train, validation = split.part(TRAIN), split.part(VALIDATION)
    n = min(max(round((len(train) + len(validation)) / len(validation)), 2), 10)
    return min(n, 1 + max(len(keys) for keys in _keys_by_class(_groups(train)).values()))


def assign_folds(split: Split) -> tuple[int, ...]:
    """Return the fold of each picture of the pool, in the order (*split.part(TRAIN), *split.part(VALIDATION)).

    Fold 0 is the validation set. The groups of each class in the training set, in the order of a hash of their content,
    are cut into the other folds, from a fold that a hash of the class's name chooses: the folds of a class do not
    depend on other classes, and the remainders of many classes are not all in the same folds.
    """
    train = split.part(TRAIN)
    groups = _groups(train)
    n_folds = fold_count(split) - 1
    folds: dict[str, int] = {}
    for label, keys in _keys_by_class(groups).items():
        first = int(hash_position(label, "fold") * n_folds)
        for rank, key in enumerate(sorted(keys, key=lambda key: (hash_position(key, "fold"), key))):
            folds[key] = 1 + (first + rank * n_folds // len(keys)) % n_folds
    of_picture = {picture.path: folds[key] for key, members in groups.items() for picture in members}
    return (*(of_picture[picture.path] for picture in train), *(0 for _ in split.part(VALIDATION)))


def assign_folds_by_picture(split: Split) -> tuple[int, ...]:
    """Return folds of the pool as a split by picture would give: in order of a hash, duplicates together, visits not.

    Like `assign_folds`, in the order (*split.part(TRAIN), *split.part(VALIDATION)), and as many.
    """
    pool = (*split.part(TRAIN), *split.part(VALIDATION))
    groups = _groups([replace(p, group="") if is_group_key(p.group) else p for p in pool])
    n_folds = fold_count(split)
    folds: dict[str, int] = {}
    for keys in _keys_by_class(groups).values():
        for rank, key in enumerate(sorted(keys, key=lambda key: (hash_position(key, "fold"), key))):
            folds[key] = rank * n_folds // len(keys)
    of_picture = {picture.path: folds[key] for key, members in groups.items() for picture in members}
    return tuple(of_picture[picture.path] for picture in pool)


def class_gaps(split: Split) -> tuple[str, ...]:
    """Return the classes that some folds have no picture of, because the training set has too few groups of them."""
    pool = (*split.part(TRAIN), *split.part(VALIDATION))
    held = {(picture.label, fold) for picture, fold in zip(pool, assign_folds(split), strict=True)}
    n_folds = fold_count(split)
    return tuple(label for label in split.classes if any((label, fold) not in held for fold in range(n_folds)))


def _groups(pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    """Return pictures by the key of their group. Duplicates have one group even if only one of them names it."""
    groups = Groups(pictures, ())
    found: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        found[groups.key(picture)].append(picture)
    return found


def _keys_by_class(groups: dict[str, list[Picture]]) -> dict[str, list[str]]:
    """Return the keys of groups by class. A group of several classes counts for the first by name."""
    found: dict[str, list[str]] = defaultdict(list)
    for key, members in groups.items():
        found[min(picture.label for picture in members)].append(key)
    return found
