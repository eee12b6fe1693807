"""Check that the pictures, settings and backbones of a study have not changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.data.picture import Picture
from autotune.data.split import MANIFEST, Split, read_manifest
from autotune.data.visits import Visits
from autotune.errors import StudyError
from autotune.search.candidates import Selection
from autotune.search.plan import Chosen
from autotune.search.settings import Settings, definition, differences
from autotune.search.space import BackboneOptions
from autotune.study.storage.record import RECORD, TRIALS, Record, check_database, missing_file, open_record

if TYPE_CHECKING:
    from autotune.search.optuna_study import OptunaStudy


def refuse_incomplete(folder: Path) -> None:
    """Raise StudyError if a file of the study is missing or damaged: going on would overwrite what others describe."""
    present = [name for name in (RECORD, TRIALS) if _has_content(folder / name)]
    for name in present:
        check_database(folder / name)
    if present == [TRIALS]:
        raise missing_file(folder, RECORD)
    if RECORD not in present or not has_started(folder):
        return
    with open_record(folder) as record:
        needed = (MANIFEST, TRIALS) if record.trials() else (MANIFEST,)
    for name in needed:
        if not _has_content(folder / name):
            raise missing_file(folder, name)


def _has_content(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def refuse_other_trials(folder: Path, record: Record, search: OptunaStudy) -> None:
    """Raise StudyError if one of the databases is older than the other, as after restoring only one of them.

    A trial is asked for, then recorded, then told: killing the driver leaves no other difference.
    """
    recorded = {row.number for row in record.trials()}
    for name, unknown in ((TRIALS, recorded - search.numbers()), (RECORD, search.told() - recorded)):
        if unknown:
            raise StudyError(
                f"{folder / name} is older than the other files of the study: it has no trial {min(unknown)}.",
                "Restore all files from one backup, or start another study: --study NEW",
            )


def recorded_visits(folder: Path) -> Visits:
    """Return how the pictures of a study that has started are grouped."""
    with open_record(folder) as record:
        return record.facts().visits


def has_started(folder: Path) -> bool:
    """Return whether a study may have started trials. Until then, its pictures and settings may change."""
    if not (folder / RECORD).is_file():
        return False
    with open_record(folder) as record:
        return record.facts().has_started


def recorded_backbones(record: Record) -> dict[str, BackboneOptions] | None:
    """Return a study's backbones with their sizes and depths; None before the study has started."""
    known = record.facts().backbones
    if known is None:
        return None
    return {name: BackboneOptions(name, one.pixels, one.depths, one.from_scratch) for name, one in known.items()}


def recorded_choices(record: Record) -> Chosen | None:
    """Return what a study chose when it started; None before that."""
    facts = record.facts()
    return Chosen(facts.epochs, facts.cuts) if facts.has_started else None


def refuse_changed(folder: Path, own: Sequence[Picture], now: Sequence[Picture]) -> None:
    """Raise StudyError if pictures have changed. Files that the split skipped are ignored."""
    with open_record(folder) as record:
        skipped = {one.path for one in record.facts().skipped}
    before, after = ({(p.path, p.digest, p.label) for p in pictures} for pictures in (own, now))
    held = {digest for _, digest, _ in before}
    gone, new = before - after, {row for row in after - before if row[1] not in held and row[0] not in skipped}
    if gone or new:
        some = ", ".join(sorted(row[0] for row in (*gone, *new))[:3])
        raise StudyError(
            f"The pictures of study {folder.name} changed: {len(gone)} missing or modified, {len(new)} new ({some}).",
            f"Start a new study that keeps the split: --study NEW --after {folder.name}",
        )


def refuse_another(record: Record, folder: Path, settings: Settings, parts: Split) -> None:
    """Raise StudyError if the settings or the split differ from those of a study that has started."""
    facts = record.facts()
    if not facts.has_started:
        return
    if differs := differences(facts.settings, definition(settings)):
        raise StudyError(
            f"Study {folder.name} has different settings: {'; '.join(differs)}.",
            "Use the same settings as before, or start another study: --study NEW",
        )
    _refuse_another_split(record, folder, parts)


def recorded_split(record: Record, folder: Path) -> Split:
    """Return the split of a study. Raises StudyError if its manifest has changed or cannot be read."""
    facts = record.facts()
    split = Split(facts.classes, read_manifest(folder / MANIFEST), (), {}, facts.visits)
    _refuse_another_split(record, folder, split)
    return split


def _refuse_another_split(record: Record, folder: Path, parts: Split) -> None:
    if record.facts().split != parts.identity:
        raise StudyError(
            f"The manifest of study {folder.name} has changed.",
            f"Restore {folder / MANIFEST}, or start another study: --study NEW",
        )


def refuse_other_weights(record: Record, chosen: Selection) -> None:
    """Raise StudyError if a backbone has other weights than before, or its plugin was edited."""
    known = record.facts().backbones or {}
    for one in chosen.candidates:
        name = one.backbone.name
        if name in known and known[name].digest != one.digest:
            raise StudyError(
                f"Backbone {name} (weights {one.weights.reason}) is not the one that this study used before.",
                "Pass the same --weights and --plugins as before, or start another study: --study NEW",
            )
