"""Identity: what makes a study this one, and is refused where it has changed: pictures, definition, backbones."""

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


def has_begun(folder: Path) -> bool:
    """Whether a study's trials can have been started: until then, whatever is asked for may change."""
    if not (folder / "record.db").is_file():
        return False
    with open_record(folder) as record:
        return record.fact("arms") is not None


def source_of(record: Record) -> str:
    """What the search was given, as it can be given again; "" for the built-in sample."""
    found = record.fact("source")
    return str(record.fact("root")) if found is None else str(found)  # a record of an earlier version knows the root


def recorded_arms(record: Record) -> dict[str, BackboneOptions] | None:
    arms = record.fact("arms")
    return arms and {
        name: BackboneOptions(name, tuple(one["pixels"]), tuple(one["depths"])) for name, one in arms.items()
    }


def recorded_cuts(record: Record) -> dict[tuple[str, int], tuple[int, ...]] | None:
    """What a study's bank keeps: decided once, because results hang on it by a hair."""
    kept = record.fact("banked")
    return kept and {(name, size): tuple(cuts) for name, size, cuts in kept}


def refuse_changed(folder: Path, own: Sequence[Picture], now: Sequence[Picture]) -> None:
    """A study is of one set of pictures. What the split itself had set aside may be there, and is."""
    with open_record(folder) as record:
        aside = {one["path"] for one in record.fact("set_aside", [])}
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
    if record.fact("arms") is None:
        return
    if differs := differences(record.fact("definition"), definition(settings)):
        raise StudyError(
            f"Study {folder.name} exists with another definition: {'; '.join(differs)}.",
            "Ask for the same again, or start another study: --study NEW",
        )
    refuse_another_split(record, folder, parts)


def refuse_another_split(record: Record, folder: Path, parts: Split) -> None:
    if record.fact("split") != parts.identity:
        raise StudyError(
            f"The manifest of study {folder.name} is not the one it was made with.",
            f"Put {folder / MANIFEST} back, or start another study: --study NEW",
        )


def refuse_other_weights(record: Record, chosen: Selection) -> None:
    """What a study's backbones compute must not change under it: other weights, or an edited plugin."""
    known = record.fact("arms") or {}
    for one in chosen.candidates:
        name = one.backbone.name
        if name in known and known[name]["digest"] != one.digest:
            raise StudyError(
                f"Backbone {name} (weights {one.weights.reason}) is not the one that this study was made with.",
                "Name the same --weights and --plugins as before, or start another study: --study NEW",
            )
