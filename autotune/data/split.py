"""The split into training, validation and test set. It depends on content: duplicates are in the same part."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from autotune.data.catalog import Catalog
from autotune.data.folder import SkippedFile
from autotune.data.groups import Groups
from autotune.data.picture import Picture
from autotune.data.visits import Visits
from autotune.errors import DataError, StudyError
from autotune.files import write_whole
from autotune.text import plural

TRAIN, VALIDATION, TEST = "train", "validation", "test"
PARTS = (TRAIN, VALIDATION, TEST)
MANIFEST = "manifest.csv"
BY_HASH = (TEST, VALIDATION, TRAIN)  # in the order of the hash positions that they cover
COLUMNS = ("path", "label", "part", "digest", "side", "stamp", "group", "note")


@dataclass(frozen=True)
class Split:
    """All usable pictures with their parts. notes: by path, why a picture was moved from the part of its hash.

    visits: a summary of the pictures' groups.
    """

    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    skipped: tuple[SkippedFile, ...]
    notes: dict[str, str]
    visits: Visits = field(default_factory=Visits)

    def part(self, name: str) -> tuple[Picture, ...]:
        return tuple(picture for picture in self.pictures if picture.part == name)

    @property
    def gap_sample(self) -> tuple[Picture, ...]:
        """A fixed sample of the training set, of the size of the validation set, on which the gap is measured."""
        train = sorted(self.part(TRAIN), key=lambda picture: (hash_position(picture.digest, "gap"), picture.path))
        return tuple(train[: len(self.part(VALIDATION))])

    @property
    def counts(self) -> dict[str, int]:
        return {**{name: len(self.part(name)) for name in PARTS}, "skipped": len(self.skipped)}

    @property
    def class_counts(self) -> dict[str, dict[str, int]]:
        """The number of pictures of each class, by part."""
        found = Counter((picture.label, picture.part) for picture in self.pictures)
        return {label: {part: found[label, part] for part in PARTS} for label in self.classes}

    @property
    def side(self) -> int:
        """The median of the pictures' shorter sides, in pixels."""
        return int(np.median([picture.side for picture in self.pictures]))

    @property
    def identity(self) -> str:
        """A hash of every picture's content, label, part and path: equal for equal splits."""
        rows = sorted(f"{p.digest} {p.label} {p.part} {p.path}" for p in self.pictures)
        return hashlib.blake2b("\n".join(rows).encode(), digest_size=12).hexdigest()


def split_catalog(
    catalog: Catalog, seed: int, validation: float | None = None, test: float = 0.1, old: Sequence[Picture] = ()
) -> Split:
    """Assign every picture to a part. Pictures of an older manifest keep their parts, parts given by folders are kept,
    and a hash of (seed, content) decides for the others.

    validation, test: shares of the pictures. validation None: `validation_share` of the pictures outside the test set.
    Raises DataError if a class has too few pictures for the parts, or no picture in one of them.
    """
    given = {picture.part for picture in catalog.pictures}
    groups = Groups(catalog.pictures, catalog.near or ())
    old_parts = carried_parts(old, catalog.pictures)
    fixed, free, skipped = _keep_given(catalog.pictures, groups, old_parts)
    shares = {TEST: 0.0 if TEST in given else test, VALIDATION: validation or 0.0}
    if VALIDATION in given:
        shares[VALIDATION] = 0.0
    elif validation is None:
        n_pool = sum(picture.part != TEST for picture in fixed)
        n_pool += sum(hash_position(groups.key(picture), str(seed)) >= shares[TEST] for picture in free)
        shares[VALIDATION] = (1 - shares[TEST]) * validation_share(n_pool)
    placed, notes = _assign(free, groups, shares, seed, old_classes={picture.label for picture in old})
    pictures = sorted((*fixed, *placed), key=lambda p: p.path)
    kept = _with_group_keys(pictures, groups)
    split = Split(catalog.classes, kept, (*catalog.skipped, *skipped), notes, catalog.visits)
    _check_classes(split)
    return split


def carried_parts(old: Iterable[Picture], now: Iterable[Picture]) -> dict[str, str]:
    """Return the parts of an older manifest, by digest.

    A file that was rotated or saved again has another digest, but is no new picture: it keeps the part of its path if
    its old content is gone.
    """
    parts, paths = {}, {}
    for picture in old:
        parts[picture.digest] = paths[picture.path] = str(picture.part)
    present, by_path = list(now), {picture.path: picture.digest for picture in old}
    digests = {picture.digest for picture in present}
    changed = {
        picture.digest: paths[picture.path]
        for picture in present
        if picture.digest not in parts and picture.path in paths and by_path[picture.path] not in digests
    }
    return {**parts, **changed}


def validation_share(n_pool: int) -> float:
    """Return the default share of the validation set in the pool, all pictures that are not in the test set.

    It makes 500 pictures, but at least a tenth and at most a fifth of the pool.
    """
    return min(0.2, max(0.1, 500 / max(n_pool, 1)))


def hash_position(key: str, salt: str) -> float:
    """Return a number in [0, 1) that depends only on the key and the salt."""
    digest = hashlib.blake2b(f"{salt}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def write_manifest(split: Split, file: Path) -> None:
    """Write the split as a CSV manifest, one row per picture, atomically."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for p in split.pictures:
        writer.writerow((p.path, p.label, p.part, p.digest, p.side, p.stamp, p.group, split.notes.get(p.path, "")))
    write_whole(file, out.getvalue())


def read_manifest(file: Path) -> tuple[Picture, ...]:
    """Read the pictures of a manifest, with their parts. Raises StudyError if the file is not a manifest."""
    try:
        with file.open(newline="", encoding="utf-8") as rows:
            return tuple(
                Picture(row["path"], row["label"], row["part"], row["digest"], int(row["side"]), row["stamp"],
                        row.get("group") or "")  # earlier versions wrote no column `group`
                for row in csv.DictReader(rows)
            )  # fmt: skip
    except FileNotFoundError as error:
        raise StudyError(f"Manifest {file} does not exist.", "Name the manifest.csv of a study.") from error
    except (KeyError, ValueError, TypeError, OSError, csv.Error) as error:
        raise StudyError(
            f"{file} is not a manifest written by autotune.", "Name the manifest.csv of a study."
        ) from error


def _by_group(pictures: Iterable[Picture], groups: Groups) -> dict[str, list[Picture]]:
    """Return pictures by the key of their group."""
    found: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        found[groups.key(picture)].append(picture)
    return found


def _keep_given(pictures: Iterable[Picture], groups: Groups,
                old_parts: dict[str, str]) -> tuple[list[Picture], list[Picture], list[SkippedFile]]:  # fmt: skip
    """Return the pictures with a given part, those without, and those skipped because their group would cross parts.

    old_parts: of an older manifest, by digest. They take precedence over parts given by folders; among these, the test
    set takes precedence over the validation set.
    """
    by_group = _by_group(pictures, groups)
    given = {picture.part for members in by_group.values() for picture in members}
    fixed: list[Picture] = []
    free: list[Picture] = []
    skipped: list[SkippedFile] = []
    for members in by_group.values():
        is_old = any(p.digest in old_parts for p in members)
        results = _parts_from_manifest(members, old_parts, given) if is_old else _parts_from_folders(members)
        for picture, result in zip(members, results, strict=True):
            if isinstance(result, SkippedFile):
                skipped.append(result)
            else:
                (fixed if is_old or result in (VALIDATION, TEST) else free).append(replace(picture, part=result))
    return fixed, free, skipped


def _parts_from_folders(members: Sequence[Picture]) -> list[str | SkippedFile | None]:
    """Return the parts of a group by folder: the test set is unchanged, and its group is skipped in other parts."""
    rank = {TEST: 0, VALIDATION: 1, TRAIN: 2, None: 2}
    holder = min(members, key=lambda p: (rank[p.part], p.path))
    return [p.part if rank[p.part] == rank[holder.part] else _crossing(p, holder, holder.part) for p in members]


def _parts_from_manifest(members: Sequence[Picture], old_parts: dict[str, str],
                         given: set[str | None]) -> list[str | SkippedFile | None]:  # fmt: skip
    """Return the parts of a group of which a manifest lists some: these are kept; new pictures join or are skipped."""
    old = {old_parts[p.digest]: p for p in members if p.digest in old_parts}
    part, holder = next(iter(old.items()))
    results: list[str | SkippedFile | None] = []
    for picture in members:
        if picture.digest in old_parts:
            results.append(old_parts[picture.digest])
        elif len(old) > 1:
            both = " and ".join(f"{p.path} ({_set_name(name)})" for name, p in sorted(old.items()))
            results.append(SkippedFile(picture.path, f"of the same group as {both}", bad=False))
        elif picture.part in (None, part) or (picture.part == TRAIN and part not in given):
            results.append(part)
        else:
            results.append(_crossing(picture, holder, part))
    return results


def _crossing(picture: Picture, holder: Picture, part: str | None) -> SkippedFile:
    """Return a picture as skipped because its group is in another part."""
    if picture.digest == holder.digest:
        tie = "a duplicate of"
    else:
        tie = "of the same group as" if picture.group and picture.group == holder.group else "a near-duplicate of"
    return SkippedFile(picture.path, f"{tie} {holder.path}, which is in the {_set_name(part)}", bad=False)


def _with_group_keys(pictures: Iterable[Picture], groups: Groups) -> tuple[Picture, ...]:
    """Return pictures with the key of their group if it is named or has several digests; else with ""."""
    keys = {p.path: groups.key(p) for p in pictures}
    contents: dict[str, set[str]] = defaultdict(set)
    for p in pictures:
        contents[keys[p.path]].add(p.digest)
    return tuple(replace(p, group=keys[p.path] if p.group or len(contents[keys[p.path]]) > 1 else "") for p in pictures)


def _assign(pictures: list[Picture], groups: Groups, shares: dict[str, float], seed: int,
            old_classes: set[str]) -> tuple[list[Picture], dict[str, str]]:  # fmt: skip
    """Assign groups to parts by hash. Every class, except the old ones, gets half of its share in each part."""
    by_group = _by_group(pictures, groups)
    order = sorted(by_group, key=lambda key: (hash_position(key, str(seed)), key))
    by_hash = {key: _part_at(hash_position(key, str(seed)), shares) for key in order}
    filling = _Filling({key: by_group[key] for key in order}, by_hash)
    for label in sorted({picture.label for picture in pictures} - old_classes):
        filling.fill(label, {part: shares[part] for part in (TEST, VALIDATION) if shares[part] > 0})
    return [replace(p, part=filling.parts[key]) for key in order for p in by_group[key]], filling.notes()


class _Filling:
    """Moves groups to the parts in which a class has too few pictures.

    groups: pictures by the key of their group, in the order of their hash. by_hash: the part of each group.
    """

    def __init__(self, groups: dict[str, list[Picture]], by_hash: dict[str, str]) -> None:
        self.parts = dict(by_hash)
        self._groups = groups
        self._by_hash = by_hash
        self._reasons: dict[str, str] = {}  # by key, why a group was last moved
        self._labels = {key: Counter(p.label for p in members) for key, members in groups.items()}
        self._own: dict[str, list[str]] = defaultdict(list)  # keys by class, in the order of their hash
        self._n_groups: Counter[tuple[str, str]] = Counter()  # by class and part
        self._n_pictures: Counter[tuple[str, str]] = Counter()
        for key in groups:
            self._count(key, 1)
            for label in self._labels[key]:
                self._own[label].append(key)

    def fill(self, label: str, shares: dict[str, float]) -> None:
        """Give a class at least half of its share in each part and a group in the training set.

        Raises DataError if it has fewer groups than parts.
        """
        own, wanted = self._own[label], [*shares, TRAIN]
        if len(own) < len(wanted):
            raise DataError(
                f"Class {label!r} has {plural(len(own), 'distinct picture')} (a group counts as one); "
                f"the sets {', '.join(part for part in PARTS if part in wanted)} need one each.",
                f"Add pictures to {label!r}, or remove the class.",
            )
        total = sum(self._n_pictures[label, part] for part in PARTS)
        for part in wanted:
            had = self._n_pictures[label, part]
            count = f"{had} of {total} pictures" if had else "no picture"
            least = max(math.ceil(round(shares.get(part, 0.0) * total / 2, 6)), 1)
            while self._n_pictures[label, part] < least and (key := self._next(label, part)):
                self._move(key, part, f"which had {count} of {label!r}")

    def notes(self) -> dict[str, str]:
        """Return why pictures are not in the part of their hash, by path."""
        return {
            p.path: f"moved from the {_set_name(self._by_hash[key])} to the {_set_name(self.parts[key])}, {reason}"
            for key, reason in self._reasons.items()
            if self.parts[key] != self._by_hash[key]
            for p in self._groups[key]
        }

    def _next(self, label: str, part: str) -> str | None:
        """Return the group of a class that a part gets: the next one by hash whose move is harmless, else None.

        A part without the class also gets a group of an earlier part, or one whose move is not harmless.
        """
        place = BY_HASH.index(part)
        spare = [key for key in self._own[label] if self._n_groups[label, self.parts[key]] > 1]
        found = [key for key in spare if BY_HASH.index(self.parts[key]) > place]
        is_missing = not self._n_groups[label, part]
        if is_missing:
            found += [key for key in reversed(spare) if BY_HASH.index(self.parts[key]) < place]
        harmless = next((key for key in found if self._is_harmless(key, label, part)), None)
        return found[0] if harmless is None and is_missing else harmless

    def _is_harmless(self, key: str, label: str, part: str) -> bool:
        """Return whether the classes of a group keep another group where it is, and label most pictures in training."""
        source, n = self.parts[key], self._labels[key][label]
        if any(self._n_groups[other, source] < 2 for other in self._labels[key]):
            return False
        n_train = self._n_pictures[label, TRAIN] - (n if source == TRAIN else 0)
        return part == TRAIN or self._n_pictures[label, part] + n <= n_train

    def _move(self, key: str, part: str, reason: str) -> None:
        self._count(key, -1)
        self.parts[key] = part
        self._count(key, 1)
        self._reasons[key] = reason

    def _count(self, key: str, sign: int) -> None:
        for label, n in self._labels[key].items():
            self._n_groups[label, self.parts[key]] += sign
            self._n_pictures[label, self.parts[key]] += sign * n


def _part_at(position: float, shares: dict[str, float]) -> str:
    if position < shares[TEST]:
        return TEST
    return VALIDATION if position < shares[TEST] + shares[VALIDATION] else TRAIN


def _set_name(part: str | None) -> str:
    return "training set" if part == TRAIN else f"{part} set"


def _check_classes(split: Split) -> None:
    """Raise DataError if a class has no picture in one of the parts."""
    for part in PARTS:
        missing = sorted(set(split.classes) - {picture.label for picture in split.part(part)})
        if missing:
            raise DataError(
                f"The {_set_name(part)} has no picture of {', '.join(map(repr, missing))}.",
                f"Add some to {part}, or remove the {'class' if len(missing) == 1 else 'classes'} from all parts.",
            )
