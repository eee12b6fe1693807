"""Visits: pictures taken on one occasion, found by capture times, file names and folders.

Pictures of one visit show the same objects in the same light. If they are on both sides of a split, the test score says
nothing about pictures of other days. Nothing here looks at pixels: pictures that look alike are no evidence of a visit.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from PIL import ExifTags, Image

from autotune.data.groups import Groups
from autotune.data.picture import Picture
from autotune.errors import ConfigError, DataError
from autotune.text import plural

AUTO, NONE, TABLE, PATTERN = "auto", "none", "table", "pattern"
GAP = timedelta(hours=1)  # without a picture from a camera; then a new visit starts
CLEAR_SHARE = 0.9  # of the pictures have the signal, so that `auto` uses it
LEAST_VISITS = 3  # of a class: one each for training, validation and test set
DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])(?!\d)")
CLOCK = re.compile(r"[-_ T.]*(?:at )?([01]\d|2[0-3])[-_.:h]?([0-5]\d)[-_.:m]?([0-5]\d)")
SERIES = re.compile(r"(.*\d.*?)[-_. ]+\(?[A-Za-z]{0,8}\d+\)?")  # a name with a number of its own, then a counter
WORDS = {
    TABLE: "the table's column group", "folder": "sub-folder of the class", "time": "capture time",
    "name": "file name", PATTERN: "the given pattern",
}  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """When and with what a picture was taken, by its EXIF data. taken: the camera's clock. camera: maker and model."""

    taken: datetime
    camera: str


@dataclass(frozen=True)
class Signal:
    """What one signal says. groups: visits by path, of the pictures that have it."""

    by: str
    groups: Mapping[str, str]

    @property
    def n_visits(self) -> int:
        return len(set(self.groups.values()))

    @property
    def words(self) -> str:
        """Describe it: "capture time: 143 visits of 900 pictures"."""
        return f"{WORDS[self.by]}: {plural(self.n_visits, 'visit')} of {plural(len(self.groups), 'picture')}"


@dataclass(frozen=True)
class Visits:
    """The visits of a dataset. by: the signal that is used, NONE if there is none. n: visits; n_pictures: those in one.

    by_picture: classes with too few visits to hold one out, which are split by picture. crossing: visits with pictures
    in several of the given parts.
    """

    by: str = NONE
    n: int = 0
    n_pictures: int = 0
    by_picture: tuple[str, ...] = ()
    crossing: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "by_picture": list(self.by_picture)}

    @property
    def noun(self) -> str:
        """What the groups are called: those of a table need not be visits."""
        return "group" if self.by == TABLE else "visit"

    @property
    def words(self) -> str:
        """Describe them: "143 visits by capture time"."""
        return f"{plural(self.n, self.noun)} by {WORDS[self.by]}"


def visits_of(pictures: Sequence[Picture]) -> list[str]:
    """Return the visit of each picture; one without a group is a visit of its own."""
    return [picture.group or picture.digest for picture in pictures]


def read_shot(image: Image.Image) -> Shot | None:
    """Return when a decoded picture was taken, None if its EXIF data do not say it.

    The tag DateTime is not used: editors set it.
    """
    if "exif" not in image.info:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged data
            exif = image.getexif()
            inner = exif.get_ifd(ExifTags.IFD.Exif)
    except Exception:  # Pillow's parser raises many types on damaged data, which are no reason to skip a picture
        return None
    for tag in (ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTimeDigitized):
        if taken := _exif_time(inner.get(tag)):
            names = (_printable(exif.get(one) or "") for one in (ExifTags.Base.Make, ExifTags.Base.Model))
            return Shot(taken, " ".join(filter(None, names)))
    return None


def _printable(text: object) -> str:
    """Return text without control characters: the name of a visit is a cell of the manifest."""
    return "".join(filter(str.isprintable, str(text))).strip()


def find_signals(pictures: Sequence[Picture], shots: Mapping[str, Shot]) -> tuple[Signal, ...]:
    """Return what each kind of signal says about the visits. shots: by path."""
    return tuple(Signal(name, signal(pictures, shots)) for name, signal in SIGNALS.items())


def group_by_visit(
    pictures: Sequence[Picture], signals: Sequence[Signal], near: Sequence[tuple[str, str]], by: str,
    least: int = LEAST_VISITS,
) -> tuple[tuple[Picture, ...], Visits]:  # fmt: skip
    """Return the pictures with their visits as groups, and a summary. near: pairs of near-duplicates, by digest.

    by: AUTO, NONE, the name of a signal, or a regular expression, whose first group or whole match names the visit. The
    groups of a table come first. least: visits that a class needs to be grouped; 1 for pictures that are not split.
    Raises ConfigError for an invalid expression, DataError if no picture has the signal.
    """
    if own := [one.group for one in pictures if one.group]:
        return tuple(pictures), Visits(TABLE, len(set(own)), len(own))
    used = _chosen(pictures, signals, by, least)
    if used is None:
        return tuple(pictures), Visits()
    by_part = tuple(replace(one, group=_within_part(one, used.groups)) for one in pictures)
    few = _with_too_few(by_part, near, least)
    kept = tuple(replace(one, group="") if one.label in few else one for one in by_part)
    groups = [one.group for one in kept if one.group]
    return kept, Visits(used.by, len(set(groups)), len(groups), few, _n_crossing(pictures, used.groups))


def _chosen(pictures: Sequence[Picture], found: Sequence[Signal], by: str, least: int) -> Signal | None:
    """Return the signal to use; None if none is wanted, or if `auto` finds no clear one."""
    if by == NONE:
        return None
    if by == AUTO:
        return next((one for one in found if _is_clear(one, pictures, least)), None)
    used = next((one for one in found if one.by == by), None) or Signal(PATTERN, _by_pattern(pictures, by))
    if not used.groups:
        what = f"matches {by!r}" if used.by == PATTERN else f"has a {WORDS[by]} that shows a visit"
        raise DataError(f"No picture {what}.", "Run `autotune data` to see what could show visits, or --group-by none.")
    return used


def _is_clear(signal: Signal, pictures: Sequence[Picture], least: int) -> bool:
    """Return whether most pictures have a signal, and half of the classes enough visits to hold one out.

    Names and folders, which are there for other reasons, must also contain several pictures per visit.
    """
    if len(signal.groups) < CLEAR_SHARE * len(pictures):
        return False
    if signal.by != "time" and 2 * signal.n_visits > len(signal.groups):
        return False
    visits: dict[str, set[str]] = {one.label: set() for one in pictures}
    for one in pictures:
        if one.path in signal.groups:
            visits[one.label].add(signal.groups[one.path])
    return 2 * sum(len(of_class) >= least for of_class in visits.values()) >= len(visits)


def _within_part(picture: Picture, visits: Mapping[str, str]) -> str:
    """Return the group of a picture, "" for none. Parts given by folders are used as they are, so none crosses them."""
    visit = visits.get(picture.path, "")
    return f"{picture.part}/{visit}" if picture.part and visit else visit


def _n_crossing(pictures: Sequence[Picture], visits: Mapping[str, str]) -> int:
    """Return the number of visits with pictures in several of the given parts."""
    parts: dict[str, set[str | None]] = defaultdict(set)
    for one in pictures:
        if one.path in visits:
            parts[visits[one.path]].add(one.part)
    return sum(len(of_visit) > 1 for of_visit in parts.values())


def _with_too_few(pictures: Sequence[Picture], near: Sequence[tuple[str, str]], least: int) -> tuple[str, ...]:
    """Return the classes with fewer groups of pictures than parts that they are split into."""
    given = {one.part for one in pictures}
    free = [one for one in pictures if one.part in (None, "train")]
    needed = least - sum(part in given for part in ("validation", "test"))
    groups = Groups(free, near)
    keys: dict[str, set[str]] = defaultdict(set)
    for one in free:
        keys[one.label].add(groups.key(one))
    named = {one.label for one in free if one.group}
    return tuple(sorted(label for label in named if len(keys[label]) < needed))


def _by_folder(pictures: Sequence[Picture], shots: Mapping[str, Shot]) -> dict[str, str]:
    """Return the folder below the class, if its name contains a digit: folders of words are mostly kinds of the class.

    Folders that are named by a date are the same visit in all classes.
    """
    found = {}
    for one in pictures:
        if inner := _below_class(one):
            dated = DATE.search(inner)
            if dated or any(letter.isdigit() for letter in inner):
                found[one.path] = dated[0] if dated else f"{one.label}/{inner}"
    return found


def _by_time(pictures: Sequence[Picture], shots: Mapping[str, Shot]) -> dict[str, str]:
    return _by_gaps({one.path: shots[one.path] for one in pictures if one.path in shots})


def _by_gaps(shots: Mapping[str, Shot]) -> dict[str, str]:
    """Return the visit of each shot: a camera's pictures without a gap of an hour, named by the first one."""
    found: dict[str, str] = {}
    before: dict[str, tuple[datetime, str]] = {}  # by camera: the time of its last picture, and the visit
    for path, shot in sorted(shots.items(), key=lambda one: (one[1].taken, one[0])):
        last, visit = before.get(shot.camera, (datetime.min, ""))
        if shot.taken - last > GAP:
            visit = f"{shot.taken:%Y-%m-%d %H:%M:%S} {shot.camera}".strip()
        found[path] = visit
        before[shot.camera] = shot.taken, visit
    return found


def _by_name(pictures: Sequence[Picture], shots: Mapping[str, Shot]) -> dict[str, str]:
    """Return visits by the date and time in file names if most have one, else by series like `burst_03` in
    `burst_03_7`. A mere counter names no visit.
    """
    stems = {one.path: PurePosixPath(one.path).stem for one in pictures}
    dates = {path: date for path, stem in stems.items() if (date := DATE.search(stem))}
    if len(dates) >= CLEAR_SHARE * len(pictures):
        clocks = {path: CLOCK.match(stems[path], date.end()) for path, date in dates.items()}
        timed = {path: Shot(_time(date, clock), "") for path, date in dates.items() if (clock := clocks[path])}
        timed = {path: shot for path, shot in timed.items() if shot.taken != datetime.min}
        return {**{path: "-".join(date.groups()) for path, date in dates.items()}, **_by_gaps(timed)}
    return {one.path: f"{one.label}/{series[1]}" for one in pictures if (series := SERIES.fullmatch(stems[one.path]))}


SIGNALS: dict[str, Callable[[Sequence[Picture], Mapping[str, Shot]], dict[str, str]]] = {
    "folder": _by_folder, "time": _by_time, "name": _by_name,
}  # fmt: skip


def _by_pattern(pictures: Sequence[Picture], pattern: str) -> dict[str, str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"{pattern!r} is not a way to group pictures: {error}.",
            f"Use {AUTO}, {NONE}, {', '.join(SIGNALS)} or a regular expression for paths.",
        ) from error
    matches = {one.path: found for one in pictures if (found := compiled.search(one.path))}
    return {path: next(filter(None, found.groups()), found[0]) for path, found in matches.items()}


def _below_class(picture: Picture) -> str:
    """Return the path between the folder of the class and the file, "" if there is none."""
    inner = PurePosixPath(picture.path).parent.parts
    return "/".join(inner[inner.index(picture.label) + 1 :]) if picture.label in inner else ""


def _exif_time(text: object) -> datetime | None:
    try:
        return datetime.strptime(str(text).strip("\0 ")[:19], "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None


def _time(date: re.Match[str], clock: re.Match[str]) -> datetime:
    """Return the time of a name; the earliest one of all if the date does not exist."""
    try:
        return datetime(*(int(part) for part in (*date.groups(), *clock.groups())))  # type: ignore[arg-type]
    except ValueError:
        return datetime.min
