"""What identifies a study, and is refused where it has changed: its pictures, its definition, its backbones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autotune.data.picture import Picture
from autotune.data.split import MANIFEST, Split
from autotune.errors import StudyError
from autotune.search.candidates import Selection
from autotune.search.settings import Settings, definition, differences
from autotune.search.space import BackboneOptions
from autotune.study.record import Record, open_record
from autotune.study.rows import Cuts


def has_begun(folder: Path) -> bool:
    """Whether a study's trials can have been started: until then, whatever is asked for may change."""
    if not (folder / "record.db").is_file():
        return False
    with open_record(folder) as record:
        return record.facts().has_begun


def source_of(record: Record) -> str:
    """What the search was given, as it can be given again; "" for the built-in sample."""
    facts = record.facts()
    return facts.root if facts.source is None else facts.source  # a record of an earlier version knows the root


def recorded_backbones(record: Record) -> dict[str, BackboneOptions] | None:
    """The backbones of a study that has begun, with their sizes and depths."""
    known = record.facts().backbones
    return (
        None if known is None else {name: BackboneOptions(name, one.pixels, one.depths) for name, one in known.items()}
    )


def recorded_cuts(record: Record) -> Cuts | None:
    """The cuts that a study caches: decided once, because results depend on them in the last digit."""
    return record.facts().cuts or None


def refuse_changed(folder: Path, own: Sequence[Picture], now: Sequence[Picture]) -> None:
    """A study is of one set of pictures. What the split itself had set aside may be there, and is."""
    with open_record(folder) as record:
        aside = {one.path for one in record.facts().skipped}
    before, after = ({(p.path, p.digest, p.label) for p in pictures} for pictures in (own, now))
    held = {digest for _, digest, _ in before}
    gone, new = before - after, {row for row in after - before if row[1] not in held and row[0] not in aside}
    if gone or new:
        some = ", ".join(sorted(row[0] for row in (*gone, *new))[:3])
        raise StudyError(
            f"Study {folder.name} was made from other pictures: {len(gone)} gone or changed, {len(new)} new ({some}).",
            f"Start a new study that keeps every picture's side: --study NEW --manifest {folder / MANIFEST}",
        )


def refuse_another(record: Record, folder: Path, settings: Settings, parts: Split) -> None:
    """A study that has begun has one definition and one set of pictures."""
    facts = record.facts()
    if not facts.has_begun:
        return
    if differs := differences(facts.settings, definition(settings)):
        raise StudyError(
            f"Study {folder.name} exists with another definition: {'; '.join(differs)}.",
            "Ask for the same again, or start another study: --study NEW",
        )
    refuse_another_split(record, folder, parts)


def refuse_another_split(record: Record, folder: Path, parts: Split) -> None:
    if record.facts().split != parts.identity:
        raise StudyError(
            f"The manifest of study {folder.name} is not the one it was made with.",
            f"Put {folder / MANIFEST} back, or start another study: --study NEW",
        )


def refuse_other_weights(record: Record, chosen: Selection) -> None:
    """What a study's backbones compute must not change under it: other weights, or an edited plugin."""
    known = record.facts().backbones or {}
    for one in chosen.candidates:
        name = one.backbone.name
        if name in known and known[name].digest != one.digest:
            raise StudyError(
                f"Backbone {name} (weights {one.weights.reason}) is not the one that this study was made with.",
                "Name the same --weights and --plugins as before, or start another study: --study NEW",
            )
