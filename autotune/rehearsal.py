"""The rehearsal: what a search would do and what it would cost, told without doing it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autotune import pixels, plan, plugins, samples, space, study, work
from autotune.anatomy import Anatomy
from autotune.bank import N_VIEWS, Bank
from autotune.files import cache_folder
from autotune.identity import has_begun, recorded_arms, recorded_cuts, refuse_another, refuse_other_weights
from autotune.lesson import Backbones, Lesson
from autotune.listener import StudyListener
from autotune.plan import Candidate, Cuts, Plan
from autotune.record import opened
from autotune.space import Arm, Settings
from autotune.splits import TRAIN, VALIDATION, Split
from autotune.study import Request
from autotune.work import Share


@dataclass(frozen=True)
class Known:
    """What an earlier run of the study has left; of a new one, nothing."""

    finished: int = 0
    is_tested: bool = False
    arms: dict[str, Arm] | None = None
    cuts: Cuts | None = None


def rehearse(request: Request, listener: StudyListener) -> dict[str, Any]:
    """Read and split the pictures, plan, count and estimate: what `search --dry-run` tells, as plain values.

    Writes nothing to the study's folder and to the cache nothing but the built-in sample; starts no worker, downloads
    nothing. Raises AutotuneError where the search could not start.
    """
    folder = study.folder_of(request)
    writing = samples.is_writing(request.data)
    settings = space.read(study.config_of(request, folder), request.flags or {}, writing)
    catalogue = plugins.catalogue(request.plugins)
    study.refuse_unknown(settings, catalogue)
    device = plan.device(request.device)
    parts, _ = study.read_pictures(request, folder, settings, catalogue, listener, keep=False)
    known = _known(folder, settings, parts)
    settings = plan.decided(settings, parts)
    chosen = plan.make(
        settings, catalogue, request.weights, device, parts.side, listener.say, known.arms, download=False
    )
    _refuse_other_weights(folder, chosen)
    cuts = known.cuts or plan.banked(chosen, settings, parts, request.trials)
    study.announce(listener, request.trials, known.finished, settings, parts, chosen)
    return _told(request, folder, settings, parts, chosen, cuts, known)


def _known(folder: Path, settings: Settings, parts: Split) -> Known:
    if not has_begun(folder):
        return Known()
    with opened(folder) as book:
        refuse_another(book, folder, settings, parts)
        return Known(len(book.trials()), book.is_tested(), recorded_arms(book), recorded_cuts(book))


def _refuse_other_weights(folder: Path, chosen: Plan) -> None:
    """As the search does, of those whose weights are here."""
    if has_begun(folder):
        with opened(folder) as book:
            here = tuple(one for one in chosen.candidates if one.weights.at_hand)
            refuse_other_weights(book, replace(chosen, candidates=here))


def _told(request: Request, folder: Path, settings: Settings, parts: Split, chosen: Plan, cuts: Cuts,
          known: Known) -> dict[str, Any]:  # fmt: skip
    left = max(request.trials - known.finished, 0)
    lesson = plan.lesson(settings, parts, chosen, request.workers, folder, cuts)
    dealt = plan.shares(chosen, settings, parts, left)
    banks = [
        _bank(lesson, one, anatomy, dealt[one.backbone.name, anatomy.pixels])
        for one in chosen.candidates
        for anatomy in (one.anatomies if one.cuts and left else ())
    ]
    missing = {(row["backbone"], row["pixels"]): row["pictures_missing"] for row in banks}
    seconds = plan.estimate(chosen, settings, left, parts, cuts, missing) if left else 0.0
    return {
        "study": folder.name,
        "begun": known.arms is not None,
        "tested": known.is_tested,
        "classes": list(parts.classes),
        "pictures": parts.counts,
        "device": chosen.device,
        "trials": {"asked": request.trials, "finished": known.finished, "left": left},
        "epochs": settings.n_epochs,
        "metric": settings.metric,
        "sampler": settings.sampler,
        "pruner": settings.pruner,
        "backbones": [_facts(one) for one in chosen.candidates],
        "left_out": chosen.left_out,
        "banks": banks,
        "operations": {"bank": sum(row["operations"] for row in banks), "trials": _operations(chosen, dealt, cuts)},
        "disk": {
            "folder": str(cache_folder()),
            "bank": sum(row["bytes"] - row["bytes_there"] for row in banks),
            "pixels": _pixels(chosen, parts),
        },
        "seconds": seconds if request.timeout is None else min(seconds, request.timeout),
    }


def _facts(one: Candidate) -> dict[str, Any]:
    needs = not one.weights.at_hand
    return {
        "name": one.backbone.name,
        "label": one.backbone.label,
        "stages": one.anatomies[0].stages,
        "pixels": list(one.arm.pixels),
        "depths": list(one.depths),
        "from_scratch": one.backbone.traits.from_scratch,
        "weights": {"at_hand": one.weights.at_hand, "megabytes": one.backbone.traits.megabytes if needs else None},
    }


def _bank(lesson: Lesson, one: Candidate, anatomy: Anatomy, share: Share) -> dict[str, Any]:
    """What one backbone's bank at one size takes, in the views that augmentation may ask for, and what is there of it.

    pictures_missing: counted once a view; one pass computes all cuts.
    """
    name, size = one.backbone.name, anatomy.pixels
    cuts = lesson.cuts[name, size]
    views = N_VIEWS * share.augmented
    bank = Backbones(lesson).bank(name, size) if one.weights.at_hand else None
    missing, there = 0, 0
    for view, digests in _views(lesson, views):
        gone = {cut: len(set(digests)) if bank is None else _n_missing(bank, cut, view, digests) for cut in cuts}
        missing += max(gone.values())
        there += sum((len(set(digests)) - n) * work.bytes_a_row(anatomy, cut) for cut, n in gone.items())
    return {
        "backbone": name,
        "pixels": size,
        "stages": anatomy.stages,
        "after_stages": list(cuts),
        "views": views,
        "bytes": sum(work.bytes_a_row(anatomy, cut) for cut in cuts)
        * sum(len(set(digests)) for _, digests in _views(lesson, views)),
        "bytes_there": there,
        "pictures_missing": missing,
        "operations": missing * sum(anatomy.operations),
    }


def _views(lesson: Lesson, n: int) -> Iterable[tuple[int, tuple[str, ...]]]:
    """Each view with the pictures that are banked in it: validation pictures are never augmented."""
    yield 0, (*lesson.train.digests, *lesson.validation.digests)
    for view in range(1, n + 1):
        yield view, tuple(lesson.train.digests)


def _n_missing(bank: Bank, cut: int, view: int, digests: tuple[str, ...]) -> int:
    return len(bank.rows(cut, view).missing(digests))


def _operations(chosen: Plan, dealt: dict[tuple[str, int], Share], cuts: Cuts) -> float:
    """Of all trials that are left."""
    total = 0.0
    for one in chosen.candidates:
        for anatomy in one.anatomies:
            key = one.backbone.name, anatomy.pixels
            banked = cuts.get(key, ())
            total += sum(
                work.trials(anatomy, depth, dealt[key], anatomy.stages - depth in banked) for depth in one.depths
            )
    return total


def _pixels(chosen: Plan, parts: Split) -> int:
    """Bytes of decoded pixels that are not in the cache yet."""
    digests = [picture.digest for part in (TRAIN, VALIDATION) for picture in parts.part(part)]
    looks = {(size, one.backbone.traits.interpolation) for one in chosen.candidates for size in one.arm.pixels}
    stores = [pixels.store(size, how) for size, how in sorted(looks)]
    return sum(len(rows.missing(digests)) * rows.row_bytes for rows in stores)
