"""Identity: what makes a study this one, and is refused where it has changed: pictures, definition, backbones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autotune import space
from autotune.errors import StudyError
from autotune.images import Picture
from autotune.plan import Plan
from autotune.record import Record, opened
from autotune.space import Arm, Settings
from autotune.splits import MANIFEST, Split


def has_begun(folder: Path) -> bool:
    """Whether a study's trials can have been started: until then, whatever is asked for may change."""
    if not (folder / "record.db").is_file():
        return False
    with opened(folder) as book:
        return book.fact("arms") is not None


def source_of(book: Record) -> str:
    """What the search was given, as it can be given again; "" for the built-in sample."""
    found = book.fact("source")
    return str(book.fact("root")) if found is None else str(found)  # a record of an earlier version knows the root


def recorded_arms(book: Record) -> dict[str, Arm] | None:
    arms = book.fact("arms")
    return arms and {name: Arm(name, tuple(one["pixels"]), tuple(one["depths"])) for name, one in arms.items()}


def recorded_cuts(book: Record) -> dict[tuple[str, int], tuple[int, ...]] | None:
    """What a study's bank keeps: decided once, because results hang on it by a hair."""
    kept = book.fact("banked")
    return kept and {(name, size): tuple(cuts) for name, size, cuts in kept}


def refuse_changed(folder: Path, own: Sequence[Picture], now: Sequence[Picture]) -> None:
    """A study is of one set of pictures. What the split itself had set aside may be there, and is."""
    with opened(folder) as book:
        aside = {one["path"] for one in book.fact("set_aside", [])}
    before, after = ({(p.path, p.digest, p.label) for p in pictures} for pictures in (own, now))
    held = {digest for _, digest, _ in before}
    gone, new = before - after, {row for row in after - before if row[1] not in held and row[0] not in aside}
    if gone or new:
        some = ", ".join(sorted(row[0] for row in (*gone, *new))[:3])
        raise StudyError(
            f"Study {folder.name} was made from other pictures: {len(gone)} gone or changed, {len(new)} new ({some}).",
            f"Start a new study that keeps every picture's side: --study NEW --manifest {folder / MANIFEST}",
        )


def refuse_another(book: Record, folder: Path, settings: Settings, parts: Split) -> None:
    """A study that has begun has one definition and one set of pictures."""
    if book.fact("arms") is None:
        return
    if differs := space.differences(book.fact("definition"), space.definition(settings)):
        raise StudyError(
            f"Study {folder.name} exists with another definition: {'; '.join(differs)}.",
            "Ask for the same again, or start another study: --study NEW",
        )
    refuse_another_split(book, folder, parts)


def refuse_another_split(book: Record, folder: Path, parts: Split) -> None:
    if book.fact("split") != parts.identity:
        raise StudyError(
            f"The manifest of study {folder.name} is not the one it was made with.",
            f"Put {folder / MANIFEST} back, or start another study: --study NEW",
        )


def refuse_other_weights(book: Record, chosen: Plan) -> None:
    """What a study's backbones compute must not change under it: other weights, or an edited plugin."""
    known = book.fact("arms") or {}
    for one in chosen.candidates:
        name = one.backbone.name
        if name in known and known[name]["digest"] != one.digest:
            raise StudyError(
                f"Backbone {name} (weights {one.weights.reason}) is not the one that this study was made with.",
                "Name the same --weights and --plugins as before, or start another study: --study NEW",
            )
