"""A survey of a data folder: classes, split, duplicates and label issues, without starting a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.data import datasets, groups
from autotune.data.catalog import Catalog, read_catalog
from autotune.data.folder import SkippedFile
from autotune.data.picture import Picture
from autotune.data.split import PARTS, Split, split_catalog
from autotune.data.visits import AUTO, Signal, Visits
from autotune.errors import DataError
from autotune.files import cache_folder
from autotune.study.listener import StudyListener

if TYPE_CHECKING:
    from autotune.report.label_issues import LabelIssue, LabelIssues

Group = tuple[Picture, ...]


@dataclass(frozen=True)
class DataSurvey:
    """The contents of a folder or table. classes: pictures per class. uneven: largest class over smallest.

    parts: pictures per part; None if no study can start, for the reason in problem. class_parts: the same of each
    class, empty without parts. given_parts: the parts given by
    folders or the table. side: median length of the shorter side, in pixels. near_duplicates: groups that contain more
    than exact duplicates. too_much_alike: near-duplicates cannot be distinguished from other pictures. contradictions:
    groups of duplicates with conflicting labels. suspects: likely label errors among the judged
    pictures. visits: how pictures are grouped;
    signals: what could show visits.
    """

    folder: Path
    pictures: int
    classes: Mapping[str, int]
    parts: Mapping[str, int] | None
    class_parts: Mapping[str, Mapping[str, int]]
    given_parts: Mapping[str, int]
    side: int
    skipped: tuple[SkippedFile, ...]
    duplicates: tuple[Group, ...]
    near_duplicates: tuple[Group, ...]
    too_much_alike: bool
    contradictions: tuple[Group, ...]
    suspects: tuple[LabelIssue, ...]
    judged: int
    visits: Visits
    signals: tuple[Signal, ...]
    problem: str | None

    @property
    def uneven(self) -> float:
        return max(self.classes.values()) / min(self.classes.values())

    def to_json(self) -> dict[str, Any]:
        """Return the output of `autotune data --json`."""
        return {
            "folder": str(self.folder),
            "pictures": self.pictures,
            "classes": dict(self.classes),
            "uneven": self.uneven,
            "parts": None if self.parts is None else dict(self.parts),
            "class_parts": {name: dict(parts) for name, parts in self.class_parts.items()},
            "given_parts": dict(self.given_parts),
            "side": self.side,
            "skipped": [{"path": one.path, "reason": one.reason} for one in self.skipped],
            "duplicates": [[p.path for p in group] for group in self.duplicates],
            "near_duplicates": [[p.path for p in group] for group in self.near_duplicates],
            "too_much_alike": self.too_much_alike,
            "contradictions": [[{"path": p.path, "label": p.label} for p in group] for group in self.contradictions],
            "suspects": [asdict(one) for one in self.suspects],
            "judged": self.judged,
            "visits": self.visits.to_json(),
            "signals": {one.by: {"visits": one.n_visits, "pictures": len(one.groups)} for one in self.signals},
            "problem": self.problem,
        }


def survey_data(data: Path | None, n_suspects: int, listener: StudyListener, study: str | None = None,
                group_by: str = AUTO) -> DataSurvey:  # fmt: skip
    """Survey a folder or table. n_suspects: the largest number of likely label errors to return.

    study: whose finals find label errors; None: a linear probe finds them. group_by: as in `group_by_visit`. Raises
    DataError if there are no pictures, or if label issues cannot be found, StudyError if the study has no finals of
    these pictures.
    """
    source = datasets.locate(data, cache_folder(), listener.say)
    catalog = read_catalog(source, progress=listener.progress("Reading"), group_by=group_by)
    split: Split | None = None
    problem = None
    try:
        split = split_catalog(catalog, seed=0)
    except DataError as error:
        problem = f"{error.problem} {error.fix}"
    duplicates = groups.find_duplicates(catalog.pictures, catalog.near)
    found = _suspects(split, catalog, n_suspects, listener, study)
    return DataSurvey(
        folder=source,
        pictures=len(catalog.pictures),
        classes=catalog.counts,
        parts={name: len(split.part(name)) for name in PARTS} if split else None,
        class_parts=split.class_counts if split else {},
        given_parts=Counter(p.part for p in catalog.pictures if p.part),
        side=catalog.side,
        skipped=(split or catalog).skipped,
        duplicates=_groups(catalog.duplicates),
        near_duplicates=_groups(groups.near_duplicates(duplicates)),
        too_much_alike=catalog.near is None,
        contradictions=_groups(groups.conflicting_labels(duplicates)),
        suspects=found.issues if found else (),
        judged=found.judged if found else 0,
        visits=catalog.visits,
        signals=tuple(one for one in catalog.signals if one.groups),
        problem=problem,
    )


def _suspects(split: Split | None, catalog: Catalog, n: int, listener: StudyListener,
              study: str | None) -> LabelIssues | None:  # fmt: skip
    if split is None or not n:
        return None
    from autotune.report import label_issues  # imports torch, which the rest does not need

    if study is not None:
        return label_issues.find_label_issues_in_finals(study, catalog.pictures, n)
    return label_issues.find_label_issues(split, catalog.root, n, listener)


def _groups(found: list[list[Picture]]) -> tuple[Group, ...]:
    return tuple(tuple(group) for group in found)
