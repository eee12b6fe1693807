"""The split: training, validation and test pictures, decided by content, so that copies are in one part."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autotune.data.catalog import Catalog
from autotune.data.folder import SkippedFile
from autotune.data.groups import Groups
from autotune.data.picture import Picture
from autotune.errors import DataError, StudyError
from autotune.files import write_whole

TRAIN, VALIDATION, TEST = "train", "validation", "test"
PARTS = (TRAIN, VALIDATION, TEST)
MANIFEST = "manifest.csv"
COLUMNS = ("path", "label", "part", "digest", "side", "stamp", "group", "note")


@dataclass(frozen=True)
class Split:
    """Every usable picture with its part. notes: by path, why a picture is not in the part that its hash gives."""

    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    skipped: tuple[SkippedFile, ...]
    notes: dict[str, str]

    def part(self, name: str) -> tuple[Picture, ...]:
        return tuple(picture for picture in self.pictures if picture.part == name)

    @property
    def gap_sample(self) -> tuple[Picture, ...]:
        """A fixed sample of the training pictures, as many as validation has, on which the gap is measured."""
        train = sorted(self.part(TRAIN), key=lambda picture: (hash_position(picture.digest, "gap"), picture.path))
        return tuple(train[: len(self.part(VALIDATION))])

    @property
    def counts(self) -> dict[str, int]:
        return {**{name: len(self.part(name)) for name in PARTS}, "skipped": len(self.skipped)}

    @property
    def side(self) -> int:
        """The pictures' median shorter side, in pixels."""
        return int(np.median([picture.side for picture in self.pictures]))

    @property
    def identity(self) -> str:
        """A hash of every picture's content, label, part and path: equal for equal splits."""
        rows = sorted(f"{p.digest} {p.label} {p.part} {p.path}" for p in self.pictures)
        return hashlib.blake2b("\n".join(rows).encode(), digest_size=12).hexdigest()


def split_catalog(
    catalog: Catalog, seed: int, validation: float = 0.1, test: float = 0.1, old: Sequence[Picture] = ()
) -> Split:
    """Give every picture a part. Pictures of an older manifest keep theirs, parts given by folders stand, and a hash of
    (seed, content) decides for the rest.

    validation, test: shares of the pictures. Raises DataError where a class is too small for the parts that have to be
    made, or has no picture in one of them.
    """
    given = {picture.part for picture in catalog.pictures}
    shares = {VALIDATION: 0.0 if VALIDATION in given else validation, TEST: 0.0 if TEST in given else test}
    groups = Groups(catalog.pictures, catalog.near or ())
    old_parts = {picture.digest: str(picture.part) for picture in old}
    fixed, free, aside = _keep_given(catalog.pictures, groups, old_parts)
    placed, notes = _assign(free, groups, shares, seed, old_classes={picture.label for picture in old})
    pictures = sorted((*fixed, *placed), key=lambda p: p.path)
    split = Split(catalog.classes, _with_group_keys(pictures, groups), (*catalog.skipped, *aside), notes)
    _refuse_missing(split)
    return split


def hash_position(key: str, salt: str) -> float:
    """A number in [0, 1) that depends on the key and the salt alone."""
    digest = hashlib.blake2b(f"{salt}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def write_manifest(split: Split, file: Path) -> None:
    """Write the split as a CSV manifest, a picture per row; whole or not at all."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for p in split.pictures:
        writer.writerow((p.path, p.label, p.part, p.digest, p.side, p.stamp, p.group, split.notes.get(p.path, "")))
    write_whole(file, out.getvalue())


def read_manifest(file: Path) -> tuple[Picture, ...]:
    """The pictures of a manifest, each with its part. Raises StudyError where it is none."""
    try:
        with file.open(newline="", encoding="utf-8") as rows:
            return tuple(
                Picture(row["path"], row["label"], row["part"], row["digest"], int(row["side"]), row["stamp"],
                        row.get("group") or "")  # a manifest of an earlier version has none
                for row in csv.DictReader(rows)
            )  # fmt: skip
    except FileNotFoundError as error:
        raise StudyError(f"There is no manifest {file}.", "Name a study's manifest.csv.") from error
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise StudyError(f"{file} is not a manifest that autotune wrote.", "Name a study's manifest.csv.") from error


def _by_group(pictures: Iterable[Picture], groups: Groups) -> dict[str, list[Picture]]:
    """Pictures by the key of their group."""
    found: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        found[groups.key(picture)].append(picture)
    return found


def _keep_given(pictures: Iterable[Picture], groups: Groups,
                old_parts: dict[str, str]) -> tuple[list[Picture], list[Picture], list[SkippedFile]]:  # fmt: skip
    """Pictures whose part is given, those whose part is not, and those set aside because their group would cross parts.

    old_parts: of an older manifest, by digest. They come first, then what folders hold out: test before validation.
    """
    by_group = _by_group(pictures, groups)
    given = {picture.part for members in by_group.values() for picture in members}
    fixed: list[Picture] = []
    free: list[Picture] = []
    aside: list[SkippedFile] = []
    for members in by_group.values():
        is_old = any(p.digest in old_parts for p in members)
        results = _parts_from_manifest(members, old_parts, given) if is_old else _parts_from_folders(members)
        for picture, result in zip(members, results, strict=True):
            if isinstance(result, SkippedFile):
                aside.append(result)
            else:
                (fixed if is_old or result in (VALIDATION, TEST) else free).append(replace(picture, part=result))
    return fixed, free, aside


def _parts_from_folders(members: Sequence[Picture]) -> list[str | SkippedFile | None]:
    """A group's parts where folders give them: test is used as it is, and what belongs to it leaves the other parts."""
    rank = {TEST: 0, VALIDATION: 1, TRAIN: 2, None: 2}
    holder = min(members, key=lambda p: (rank[p.part], p.path))
    return [p.part if rank[p.part] == rank[holder.part] else _crossing(p, holder, holder.part) for p in members]


def _parts_from_manifest(members: Sequence[Picture], old_parts: dict[str, str],
                         given: set[str | None]) -> list[str | SkippedFile | None]:  # fmt: skip
    """A group's parts where a manifest knows some: those are kept, and a new picture joins them or is set aside."""
    old = {old_parts[p.digest]: p for p in members if p.digest in old_parts}
    part, holder = next(iter(old.items()))
    results: list[str | SkippedFile | None] = []
    for picture in members:
        if picture.digest in old_parts:
            results.append(old_parts[picture.digest])
        elif len(old) > 1:
            both = " and ".join(f"{p.path} in {name}" for name, p in sorted(old.items()))
            results.append(SkippedFile(picture.path, f"would tie {both} to each other", bad=False))
        elif picture.part in (None, part) or (picture.part == TRAIN and part not in given):
            results.append(part)
        else:
            results.append(_crossing(picture, holder, part))
    return results


def _crossing(picture: Picture, holder: Picture, part: str | None) -> SkippedFile:
    """A picture set aside because one of its group is in another part."""
    if picture.digest == holder.digest:
        tie = "a copy of"
    else:
        tie = "of the same group as" if picture.group and picture.group == holder.group else "nearly a copy of"
    return SkippedFile(picture.path, f"{tie} {holder.path}, which is in {part}", bad=False)


def _with_group_keys(pictures: Iterable[Picture], groups: Groups) -> tuple[Picture, ...]:
    """Pictures with the key of their group, where a group was named or holds more than one content; else with ""."""
    keys = {p.path: groups.key(p) for p in pictures}
    contents: dict[str, set[str]] = defaultdict(set)
    for p in pictures:
        contents[keys[p.path]].add(p.digest)
    return tuple(replace(p, group=keys[p.path] if p.group or len(contents[keys[p.path]]) > 1 else "") for p in pictures)


def _assign(pictures: list[Picture], groups: Groups, shares: dict[str, float], seed: int,
            old_classes: set[str]) -> tuple[list[Picture], dict[str, str]]:  # fmt: skip
    """Give groups their parts by hash. Every class but the old ones gets a group in every part that is made."""
    by_group = _by_group(pictures, groups)
    order = sorted(by_group, key=lambda key: (hash_position(key, str(seed)), key))
    parts = {key: _part_at(hash_position(key, str(seed)), shares) for key in order}
    notes: dict[str, str] = {}
    wanted = [part for part in (TEST, VALIDATION) if shares[part] > 0]
    for label in sorted({picture.label for picture in pictures} - old_classes):
        own = [key for key in order if any(p.label == label for p in by_group[key])]
        _fill_parts(label, own, parts, [*wanted, TRAIN], by_group, notes)
    return [replace(p, part=parts[key]) for key in order for p in by_group[key]], notes


def _fill_parts(label: str, own: list[str], parts: dict[str, str], wanted: list[str],
                by_group: dict[str, list[Picture]], notes: dict[str, str]) -> None:  # fmt: skip
    """Move a class's groups of the lowest hash to those of the wanted parts that it has none in.

    own: the keys of its groups, in the order of their hash. parts and notes are changed.
    """
    if len(own) < len(wanted):
        raise DataError(
            f"Class {label!r} has {len(own)} different pictures or groups of them; {', '.join(sorted(wanted))} need "
            "one each.",
            f"Add pictures to {label!r}, or take the class out.",
        )
    for part in wanted:
        if any(parts[key] == part for key in own):
            continue
        n_groups = {other: sum(parts[key] == other for key in own) for other in wanted}
        moved = next(key for key in own if n_groups[parts[key]] > 1)
        for picture in by_group[moved]:
            notes[picture.path] = f"moved from {parts[moved]} to {part}, which had no {label!r}"
        parts[moved] = part


def _part_at(position: float, shares: dict[str, float]) -> str:
    if position < shares[TEST]:
        return TEST
    return VALIDATION if position < shares[TEST] + shares[VALIDATION] else TRAIN


def _refuse_missing(split: Split) -> None:
    """Raise DataError where a class has no picture in one of the parts."""
    for part in PARTS:
        missing = sorted(set(split.classes) - {picture.label for picture in split.part(part)})
        if missing:
            raise DataError(
                f"{part.capitalize()} has no picture of {', '.join(map(repr, missing))}.",
                f"Add some to {part}, or take the class out everywhere.",
            )
