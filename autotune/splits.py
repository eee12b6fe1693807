"""The split: train, validation and test, decided by content, so that no copy stands on two sides."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autotune.errors import DataError, StudyError
from autotune.images import Catalog, Picture, SetAside

TRAIN, VALIDATION, TEST = "train", "validation", "test"
PARTS = (TRAIN, VALIDATION, TEST)
MANIFEST = "manifest.csv"
COLUMNS = ("path", "label", "part", "digest", "side", "stamp", "note")


@dataclass(frozen=True)
class Split:
    """Every usable picture with its part filled in. notes: why a picture is not where its hash would have put it."""

    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    set_aside: tuple[SetAside, ...]
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


def split(
    catalog: Catalog, seed: int, validation: float = 0.1, test: float = 0.1, old: Sequence[Picture] = ()
) -> Split:
    """Give every picture a part. What an older manifest knows keeps its side; folders' own parts stand; the rest
    goes by a hash of (seed, content).

    Raises DataError where a class is too small for the parts that have to be made, or misses in a part.
    """
    given = {picture.part for picture in catalog.pictures}
    shares = {VALIDATION: 0.0 if VALIDATION in given else validation, TEST: 0.0 if TEST in given else test}
    sides = {picture.digest: picture.part for picture in old}
    pictures, aside = _without_crossing(catalog.pictures)
    fixed = [replace(p, part=sides.get(p.digest, p.part)) for p in pictures if p.digest in sides or _is_held_out(p)]
    free = [p for p in pictures if p.digest not in sides and not _is_held_out(p)]
    placed, notes = _placed(free, shares, seed, settled={picture.label for picture in old})
    whole = tuple(sorted((*fixed, *placed), key=lambda p: p.path))
    result = Split(catalog.classes, whole, (*catalog.set_aside, *aside), notes)
    _refuse_missing(result)
    return result


def seal(seed: int, test: float, old: Sequence[Picture] = ()) -> Callable[[Picture], bool]:
    """Tells of a picture just read whether `split` will most likely hold it back for the test. Where a class would
    miss a part, `split` may decide otherwise.
    """
    sides = {picture.digest: picture.part for picture in old}

    def is_sealed(picture: Picture) -> bool:
        part = sides.get(picture.digest, picture.part)
        if part in (VALIDATION, TEST) or picture.digest in sides:
            return part == TEST
        return _position(picture.digest, str(seed)) < test

    return is_sealed


def write(parts: Split, file: Path) -> None:
    """Keep the split as a CSV manifest, one picture a row; written whole or not at all."""
    unfinished = file.with_suffix(f".{os.getpid()}")
    with unfinished.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        for p in parts.pictures:
            writer.writerow((p.path, p.label, p.part, p.digest, p.side, p.stamp, parts.notes.get(p.path, "")))
    unfinished.replace(file)


def read(file: Path) -> tuple[Picture, ...]:
    """The pictures of a manifest, each with its part. Raises StudyError where it is none."""
    try:
        with file.open(newline="", encoding="utf-8") as rows:
            return tuple(
                Picture(row["path"], row["label"], row["part"], row["digest"], int(row["side"]), row["stamp"])
                for row in csv.DictReader(rows)
            )
    except FileNotFoundError as error:
        raise StudyError(f"There is no manifest {file}.", "Name a study's manifest.csv.") from error
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise StudyError(f"{file} is not a manifest that autotune wrote.", "Name a study's manifest.csv.") from error


def _is_held_out(picture: Picture) -> bool:
    return picture.part in (VALIDATION, TEST)


def _without_crossing(pictures: Iterable[Picture]) -> tuple[list[Picture], list[SetAside]]:
    """Where folders give the parts, test is used as it is, and copies of its pictures leave the other parts."""
    rank = {TEST: 0, VALIDATION: 1, TRAIN: 2, None: 2}
    first: dict[str, Picture] = {}
    for picture in sorted(pictures, key=lambda p: (rank[p.part], p.path)):
        first.setdefault(picture.digest, picture)
    kept, aside = [], []
    for picture in pictures:
        holder = first[picture.digest]
        if rank[picture.part] == rank[holder.part]:
            kept.append(picture)
        else:
            aside.append(SetAside(picture.path, f"a copy of {holder.path}, which is in {holder.part}", bad=False))
    return kept, aside


def _placed(
    pictures: list[Picture], shares: dict[str, float], seed: int, settled: set[str]
) -> tuple[list[Picture], dict[str, str]]:
    """Deal groups of copies to the parts; every class but the settled ones gets a group in every part made."""
    groups: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        groups[picture.digest].append(picture)
    order = sorted(groups, key=lambda digest: (_position(digest, str(seed)), digest))
    side = {digest: _side(_position(digest, str(seed)), shares) for digest in order}
    notes: dict[str, str] = {}
    wanted = [part for part in (TEST, VALIDATION) if shares[part] > 0]
    for label in sorted({picture.label for picture in pictures} - settled):
        own = [digest for digest in order if any(p.label == label for p in groups[digest])]
        _fill_class(label, own, side, [*wanted, TRAIN], groups, notes)
    return [replace(p, part=side[digest]) for digest in order for p in groups[digest]], notes


def _fill_class(
    label: str,
    own: list[str],
    side: dict[str, str],
    wanted: list[str],
    groups: dict[str, list[Picture]],
    notes: dict[str, str],
) -> None:
    """Move a class's lowest-hash groups to the parts it would miss."""
    if len(own) < len(wanted):
        raise DataError(
            f"Class {label!r} has {len(own)} different pictures; {', '.join(sorted(wanted))} need one each.",
            f"Add pictures to {label!r}, or take the class out.",
        )
    for part in wanted:
        if any(side[digest] == part for digest in own):
            continue
        held = {other: sum(side[digest] == other for digest in own) for other in wanted}
        moved = next(digest for digest in own if held[side[digest]] > 1)
        for picture in groups[moved]:
            notes[picture.path] = f"moved from {side[moved]} to {part}, which had no {label!r}"
        side[moved] = part


def _side(position: float, shares: dict[str, float]) -> str:
    if position < shares[TEST]:
        return TEST
    return VALIDATION if position < shares[TEST] + shares[VALIDATION] else TRAIN


def _position(digest: str, salt: str) -> float:
    """A place in [0, 1) that depends on the content and the salt alone."""
    sum_ = hashlib.blake2b(f"{salt}:{digest}".encode(), digest_size=8).digest()
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
