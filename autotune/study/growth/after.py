"""A study of next month's pictures: it keeps the split of an earlier study, and starts with its choices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.data.picture import Picture
from autotune.data.split import MANIFEST, PARTS, carried_parts
from autotune.errors import ConfigError, DataError, StudyError
from autotune.study.request import SearchRequest
from autotune.study.storage.record import RECORD, open_record
from autotune.study.storage.rows import COMPLETE
from autotune.study.summary import find_study
from autotune.text import plural
from autotune.training.params import Params

N_CHOICES = 3  # trials of the earlier study that are repeated
N_SHOWN = 12  # classes whose new pictures are counted in words


@dataclass(frozen=True)
class Changes:
    """What a folder has that an earlier study had not. added: new pictures by class and part. gone: of n_old.

    relabelled: pictures that had another label.
    """

    added: Mapping[str, Mapping[str, int]]
    gone: int
    n_old: int
    relabelled: int

    @property
    def n_added(self) -> int:
        return sum(sum(parts.values()) for parts in self.added.values())

    def lines(self, earlier: str) -> list[str]:
        """Describe the changes. earlier: the name of the study."""
        of_parts = Counter[str]()
        for parts in self.added.values():
            of_parts.update(parts)
        lines = [f"After study {earlier}: {plural(self.n_added, 'new picture')} ({_counts(of_parts)})."]
        if self.gone:
            lines[0] += f" {self.gone} of its {plural(self.n_old, 'picture')} are gone."
        if self.relabelled:
            lines[0] += f" {plural(self.relabelled, 'picture')} had another label."
        most = sorted(self.added.items(), key=lambda item: (-sum(item[1].values()), item[0]))
        lines += [f"  {label}: {sum(parts.values())} ({_counts(parts)})" for label, parts in most[:N_SHOWN]]
        return [*lines, f"  and {len(most) - N_SHOWN} more classes"] if len(most) > N_SHOWN else lines


def _counts(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{parts.get(part, 0)} {part}" for part in PARTS)


def earlier_folder(request: SearchRequest, folder: Path) -> Path | None:
    """Return the folder of the study that a request follows. folder: of its own. Raises AutotuneError if it cannot.

    A study that has started keeps what it follows, which may be gone by now.
    """
    own = folder / RECORD
    if own.is_file() and own.stat().st_size:  # opening an empty one would make it look like a study
        with open_record(folder) as record:
            facts = record.facts()
        if facts.has_started:
            return _recorded(request.after, facts.after, folder)
    if request.after is None:
        return None
    if request.manifest is not None:
        raise ConfigError("--after and --manifest exclude each other.", "Use --after: it keeps the split, too.")
    earlier = find_study(request.after)
    _refuse_unfinished(earlier)
    return earlier


def _recorded(asked: str | None, known: str | None, folder: Path) -> Path | None:
    """Return the folder that a study has recorded. Raises StudyError if another one is asked for.

    Only the names are compared: both studies may have been moved.
    """
    if asked is not None and (known is None or Path(known).name != Path(asked).name):
        follows = f"follows {Path(known).name}" if known else "follows no other study"
        raise StudyError(f"Study {folder.name} has started, and {follows}.", "Start another study: --study NEW")
    return Path(known) if known else None


def _refuse_unfinished(earlier: Path) -> None:
    """Raise StudyError if a study has no final model yet."""
    with open_record(earlier) as record:
        if record.final() is None and record.evaluation() is None:
            raise StudyError(
                f"Study {earlier.name} has no final model to start from.",
                f"Finish its search, or keep only its split: --manifest {earlier / MANIFEST}",
            )


def changes(earlier: str, old: Sequence[Picture], now: Sequence[Picture]) -> Changes:
    """Compare the pictures of a study with those of an earlier one. Raises DataError if they share none."""
    known, paths = carried_parts(old, now), {picture.path for picture in now}
    present = {picture.digest for picture in now}
    if not known.keys() & present:
        raise DataError(
            f"None of the pictures of study {earlier} is in this folder.",
            "Put the old pictures and the new ones into one folder, or search without --after.",
        )
    added: dict[str, Counter[str]] = {}
    for picture in now:
        if picture.digest not in known:
            added.setdefault(picture.label, Counter())[str(picture.part)] += 1
    gone = sum(picture.digest not in present and picture.path not in paths for picture in old)
    labels = {picture.digest: picture.label for picture in old}
    relabelled = sum(labels.get(picture.digest, picture.label) != picture.label for picture in now)
    return Changes({label: dict(parts) for label, parts in added.items()}, gone, len(old), relabelled)


def earlier_choices(earlier: Path) -> tuple[Params, ...]:
    """Return the hyperparameters of the best trials of a study: the final model's, then by validation score."""
    with open_record(earlier) as record:
        winner = record.winner()
        rows = sorted(record.trials(), key=lambda row: not winner or row.number != winner.number)
    complete = [row.params for row in rows if row.state == COMPLETE and not row.params.is_recipe]
    return tuple(complete[:N_CHOICES])
