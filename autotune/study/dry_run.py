"""The rehearsal: what a search would do and what it would cost, told without doing it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autotune.backbones.profile import StageProfile
from autotune.backbones.registry import discover
from autotune.cache.features import N_VIEWS, FeatureCache
from autotune.cache.pixels import pixel_rows
from autotune.data import datasets
from autotune.data.split import TRAIN, VALIDATION, Split
from autotune.files import cache_folder
from autotune.search.candidates import Candidate, Selection, select_backbones
from autotune.search.cost import ExpectedShare, bytes_a_row, trial_operations
from autotune.search.plan import Cuts, build_context, choose_cuts, expected_shares, pick_device, resolve_settings
from autotune.search.settings import Settings, read_settings
from autotune.search.space import BackboneOptions
from autotune.search.speed import estimate_seconds
from autotune.study.checks import has_begun, recorded_backbones, recorded_cuts, refuse_another, refuse_other_weights
from autotune.study.listener import StudyListener
from autotune.study.record import open_record
from autotune.study.request import SearchRequest
from autotune.study.run import announce, read_pictures, refuse_unknown, study_config, study_folder
from autotune.training.context import LoadedBackbones, TrialContext


@dataclass(frozen=True)
class EarlierRun:
    """What an earlier run of the study has left; of a new one, nothing."""

    finished: int = 0
    is_tested: bool = False
    arms: dict[str, BackboneOptions] | None = None
    cuts: Cuts | None = None


def dry_run(request: SearchRequest, listener: StudyListener) -> dict[str, Any]:
    """Read and split the pictures, plan, count and estimate: what `search --dry-run` tells, as plain values.

    Writes nothing to the study's folder and to the cache nothing but the built-in sample; starts no worker, downloads
    nothing. Raises AutotuneError where the search could not start.
    """
    folder = study_folder(request)
    writing = datasets.is_writing(request.data)
    settings = read_settings(study_config(request, folder), request.flags or {}, writing)
    registry = discover(request.plugins)
    refuse_unknown(settings, registry)
    device = pick_device(request.device)
    parts, _ = read_pictures(request, folder, settings, registry, listener, keep=False)
    known = _known(folder, settings, parts)
    settings = resolve_settings(settings, parts)
    chosen = select_backbones(
        settings, registry, request.weights, device, parts.side, listener.say, known.arms, download=False
    )
    _refuse_other_weights(folder, chosen)
    cuts = known.cuts or choose_cuts(chosen, settings, parts, request.trials)
    announce(listener, request.trials, known.finished, settings, parts, chosen)
    return _told(request, folder, settings, parts, chosen, cuts, known)


def _known(folder: Path, settings: Settings, parts: Split) -> EarlierRun:
    if not has_begun(folder):
        return EarlierRun()
    with open_record(folder) as record:
        refuse_another(record, folder, settings, parts)
        return EarlierRun(len(record.trials()), record.is_tested(), recorded_backbones(record), recorded_cuts(record))


def _refuse_other_weights(folder: Path, chosen: Selection) -> None:
    """As the search does, of those whose weights are here."""
    if has_begun(folder):
        with open_record(folder) as record:
            here = tuple(one for one in chosen.candidates if one.weights.at_hand)
            refuse_other_weights(record, replace(chosen, candidates=here))


def _told(request: SearchRequest, folder: Path, settings: Settings, parts: Split, chosen: Selection, cuts: Cuts,
          known: EarlierRun) -> dict[str, Any]:  # fmt: skip
    left = max(request.trials - known.finished, 0)
    context = build_context(settings, parts, chosen, request.workers, cuts)
    dealt = expected_shares(chosen, settings, parts, left)
    banks = [
        _bank(context, one, profile, dealt[one.backbone.name, profile.pixels])
        for one in chosen.candidates
        for profile in (one.profiles if one.cuts and left else ())
    ]
    missing = {(row["backbone"], row["pixels"]): row["pictures_missing"] for row in banks}
    seconds = estimate_seconds(chosen, settings, left, parts, cuts, missing) if left else 0.0
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
        "stages": one.profiles[0].stages,
        "pixels": list(one.arm.pixels),
        "depths": list(one.depths),
        "from_scratch": one.backbone.traits.from_scratch,
        "weights": {"at_hand": one.weights.at_hand, "megabytes": one.backbone.traits.megabytes if needs else None},
    }


def _bank(context: TrialContext, one: Candidate, profile: StageProfile, share: ExpectedShare) -> dict[str, Any]:
    """What one backbone's bank at one size takes, in the views that augmentation may ask for, and what is there of it.

    pictures_missing: counted once a view; one pass computes all cuts.
    """
    name, size = one.backbone.name, profile.pixels
    cuts = context.cuts[name, size]
    views = N_VIEWS * share.augmented
    bank = LoadedBackbones(context).feature_cache(name, size) if one.weights.at_hand else None
    missing, there = 0, 0
    for view, digests in _views(context, views):
        gone = {cut: len(set(digests)) if bank is None else _n_missing(bank, cut, view, digests) for cut in cuts}
        missing += max(gone.values())
        there += sum((len(set(digests)) - n) * bytes_a_row(profile, cut) for cut, n in gone.items())
    return {
        "backbone": name,
        "pixels": size,
        "stages": profile.stages,
        "after_stages": list(cuts),
        "views": views,
        "bytes": sum(bytes_a_row(profile, cut) for cut in cuts)
        * sum(len(set(digests)) for _, digests in _views(context, views)),
        "bytes_there": there,
        "pictures_missing": missing,
        "operations": missing * sum(profile.operations),
    }


def _views(context: TrialContext, n: int) -> Iterable[tuple[int, tuple[str, ...]]]:
    """Each view with the pictures that are banked in it: validation pictures are never augmented."""
    yield 0, (*context.train.digests, *context.validation.digests)
    for view in range(1, n + 1):
        yield view, tuple(context.train.digests)


def _n_missing(bank: FeatureCache, cut: int, view: int, digests: tuple[str, ...]) -> int:
    return len(bank.rows(cut, view).missing(digests))


def _operations(chosen: Selection, dealt: dict[tuple[str, int], ExpectedShare], cuts: Cuts) -> float:
    """Of all trials that are left."""
    total = 0.0
    for one in chosen.candidates:
        for profile in one.profiles:
            key = one.backbone.name, profile.pixels
            banked = cuts.get(key, ())
            total += sum(
                trial_operations(profile, depth, dealt[key], profile.stages - depth in banked) for depth in one.depths
            )
    return total


def _pixels(chosen: Selection, parts: Split) -> int:
    """Bytes of decoded pixels that are not in the cache yet."""
    digests = [picture.digest for part in (TRAIN, VALIDATION) for picture in parts.part(part)]
    looks = {(size, one.backbone.traits.interpolation) for one in chosen.candidates for size in one.arm.pixels}
    stores = [pixel_rows(size, how) for size, how in sorted(looks)]
    return sum(len(rows.missing(digests)) * rows.row_bytes for rows in stores)
