"""The split: train, validation and test, decided by content, so that no copy stands on two sides."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autotune.data.catalog import Catalog
from autotune.data.folder import SkippedFile
from autotune.data.groups import Groups, group_key
from autotune.data.picture import Picture
from autotune.errors import DataError, StudyError
from autotune.files import write_whole

TRAIN, VALIDATION, TEST = "train", "validation", "test"
PARTS = (TRAIN, VALIDATION, TEST)
MANIFEST = "manifest.csv"
COLUMNS = ("path", "label", "part", "digest", "side", "stamp", "group", "note")


@dataclass(frozen=True)
class Split:
    """Every usable picture with its part filled in. notes: why a picture is not where its hash would have put it."""

    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    set_aside: tuple[SkippedFile, ...]
    notes: dict[str, str]

    def part(self, name: str) -> tuple[Picture, ...]:
        return tuple(picture for picture in self.pictures if picture.part == name)

    @property
    def gap_sample(self) -> tuple[Picture, ...]:
        """A fixed sample of the training pictures, as large as validation, on which the gap is measured."""
        train = sorted(self.part(TRAIN), key=lambda picture: (_position(picture.digest, "gap"), picture.path))
        return tuple(train[: len(self.part(VALIDATION))])

    @property
    def counts(self) -> dict[str, int]:
        return {**{name: len(self.part(name)) for name in PARTS}, "set_aside": len(self.set_aside)}

    @property
    def side(self) -> int:
        """The pictures' median shorter side, in pixels."""
        return int(np.median([picture.side for picture in self.pictures]))

    @property
    def identity(self) -> str:
        """What makes two splits the same: which content, labelled how, stands where."""
        rows = sorted(f"{p.digest} {p.label} {p.part} {p.path}" for p in self.pictures)
        return hashlib.blake2b("\n".join(rows).encode(), digest_size=12).hexdigest()


def split_catalog(
    catalog: Catalog, seed: int, validation: float = 0.1, test: float = 0.1, old: Sequence[Picture] = ()
) -> Split:
    """Give every picture a part. What an older manifest knows keeps its side; folders' own parts stand; the rest
    goes by a hash of (seed, content).

    Raises DataError where a class is too small for the parts that have to be made, or misses in a part.
    """
    given = {picture.part for picture in catalog.pictures}
    shares = {VALIDATION: 0.0 if VALIDATION in given else validation, TEST: 0.0 if TEST in given else test}
    groups = Groups(catalog.pictures, catalog.near or ())
    sides = {picture.digest: str(picture.part) for picture in old}
    fixed, free, aside = _settled(catalog.pictures, groups, sides)
    placed, notes = _placed(free, groups, shares, seed, settled={picture.label for picture in old})
    whole = sorted((*fixed, *placed), key=lambda p: p.path)
    result = Split(catalog.classes, _tied(whole, groups), (*catalog.set_aside, *aside), notes)
    _refuse_missing(result)
    return result


def likely_test(seed: int, test: float, old: Sequence[Picture] = ()) -> Callable[[Picture], bool]:
    """Tells of a picture just read whether `split` will most likely hold it back for the test. Where a class would
    miss a part, `split` may decide otherwise.
    """
    sides = {picture.digest: picture.part for picture in old}

    def is_sealed(picture: Picture) -> bool:
        part = sides.get(picture.digest, picture.part)
        if part in (VALIDATION, TEST) or picture.digest in sides:
            return part == TEST
        return _position(group_key(picture.group) if picture.group else picture.digest, str(seed)) < test

    return is_sealed


def write_manifest(parts: Split, file: Path) -> None:
    """Keep the split as a CSV manifest, one picture a row; written whole or not at all."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for p in parts.pictures:
        writer.writerow((p.path, p.label, p.part, p.digest, p.side, p.stamp, p.group, parts.notes.get(p.path, "")))
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


def _settled(pictures: Iterable[Picture], groups: Groups,
             sides: dict[str, str]) -> tuple[list[Picture], list[Picture], list[SkippedFile]]:  # fmt: skip
    """Pictures whose part is fixed, those that are free, and those whose group would stand on two sides.

    sides: of an older manifest, by digest; they go first, then what folders hold out: test before validation.
    """
    tied: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        tied[groups.key(picture)].append(picture)
    given = {picture.part for members in tied.values() for picture in members}
    fixed: list[Picture] = []
    free: list[Picture] = []
    aside: list[SkippedFile] = []
    for members in tied.values():
        is_old = any(p.digest in sides for p in members)
        results = _following(members, sides, given) if is_old else _ranked(members)
        for picture, result in zip(members, results, strict=True):
            if isinstance(result, SkippedFile):
                aside.append(result)
            else:
                (fixed if is_old or result in (VALIDATION, TEST) else free).append(replace(picture, part=result))
    return fixed, free, aside


def _ranked(members: Sequence[Picture]) -> list[str | SkippedFile | None]:
    """Where folders give the parts, test is used as it is, and what is tied to its pictures leaves the other parts."""
    rank = {TEST: 0, VALIDATION: 1, TRAIN: 2, None: 2}
    holder = min(members, key=lambda p: (rank[p.part], p.path))
    return [p.part if rank[p.part] == rank[holder.part] else _crossing(p, holder, holder.part) for p in members]


def _following(members: Sequence[Picture], sides: dict[str, str],
               given: set[str | None]) -> list[str | SkippedFile | None]:  # fmt: skip
    """Old pictures keep their sides; a new one goes with those that it is tied to, or is set aside where it cannot."""
    old = {sides[p.digest]: p for p in members if p.digest in sides}
    side, holder = next(iter(old.items()))
    found: list[str | SkippedFile | None] = []
    for picture in members:
        if picture.digest in sides:
            found.append(sides[picture.digest])
        elif len(old) > 1:
            both = " and ".join(f"{p.path} in {part}" for part, p in sorted(old.items()))
            found.append(SkippedFile(picture.path, f"would tie {both} to each other", bad=False))
        elif picture.part in (None, side) or (picture.part == TRAIN and side not in given):
            found.append(side)
        else:
            found.append(_crossing(picture, holder, side))
    return found


def _crossing(picture: Picture, holder: Picture, part: str | None) -> SkippedFile:
    if picture.digest == holder.digest:
        tie = "a copy of"
    else:
        tie = "of the same group as" if picture.group and picture.group == holder.group else "nearly a copy of"
    return SkippedFile(picture.path, f"{tie} {holder.path}, which is in {part}", bad=False)


def _tied(pictures: Iterable[Picture], groups: Groups) -> tuple[Picture, ...]:
    """Pictures with the key of their group where it is not their own content alone."""
    keys = {p.path: groups.key(p) for p in pictures}
    different: dict[str, set[str]] = defaultdict(set)
    for p in pictures:
        different[keys[p.path]].add(p.digest)
    return tuple(
        replace(p, group=keys[p.path] if p.group or len(different[keys[p.path]]) > 1 else "") for p in pictures
    )


def _placed(pictures: list[Picture], groups: Groups, shares: dict[str, float], seed: int,
            settled: set[str]) -> tuple[list[Picture], dict[str, str]]:  # fmt: skip
    """Deal groups to the parts; every class but the settled ones gets a group in every part made."""
    tied: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        tied[groups.key(picture)].append(picture)
    order = sorted(tied, key=lambda key: (_position(key, str(seed)), key))
    side = {key: _side(_position(key, str(seed)), shares) for key in order}
    notes: dict[str, str] = {}
    wanted = [part for part in (TEST, VALIDATION) if shares[part] > 0]
    for label in sorted({picture.label for picture in pictures} - settled):
        own = [key for key in order if any(p.label == label for p in tied[key])]
        _fill_class(label, own, side, [*wanted, TRAIN], tied, notes)
    return [replace(p, part=side[key]) for key in order for p in tied[key]], notes


def _fill_class(
    label: str,
    own: list[str],
    side: dict[str, str],
    wanted: list[str],
    tied: dict[str, list[Picture]],
    notes: dict[str, str],
) -> None:
    """Move a class's lowest-hash groups to the parts it would miss."""
    if len(own) < len(wanted):
        raise DataError(
            f"Class {label!r} has {len(own)} different pictures or groups of them; {', '.join(sorted(wanted))} need "
            "one each.",
            f"Add pictures to {label!r}, or take the class out.",
        )
    for part in wanted:
        if any(side[key] == part for key in own):
            continue
        held = {other: sum(side[key] == other for key in own) for other in wanted}
        moved = next(key for key in own if held[side[key]] > 1)
        for picture in tied[moved]:
            notes[picture.path] = f"moved from {side[moved]} to {part}, which had no {label!r}"
        side[moved] = part


def _side(position: float, shares: dict[str, float]) -> str:
    if position < shares[TEST]:
        return TEST
    return VALIDATION if position < shares[TEST] + shares[VALIDATION] else TRAIN


def _position(key: str, salt: str) -> float:
    """A place in [0, 1) that depends on the content and the salt alone."""
    sum_ = hashlib.blake2b(f"{salt}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(sum_, "big") / 2**64


def _refuse_missing(parts: Split) -> None:
    """Validation and test hold no class that training lacks, and each class is in every part."""
    for part in PARTS:
        missing = sorted(set(parts.classes) - {picture.label for picture in parts.part(part)})
        if missing:
            raise DataError(
                f"{part.capitalize()} has no picture of {', '.join(map(repr, missing))}.",
                f"Add some to {part}, or take the class out everywhere.",
            )
