"""What the feature cache of a study takes, and how much of it is there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from autotune.backbones.profile import StageProfile
from autotune.cache.features import FeatureCache
from autotune.search.candidates import Candidate
from autotune.search.cost import ExpectedShare, bytes_per_row, expected_shares
from autotune.search.plan import Plan
from autotune.training.context import LoadedBackbones, TrialContext


@dataclass(frozen=True)
class FeatureCost:
    """The features that one backbone may need at one size, in all augmentation views.

    after_stages: the cached cuts. bytes: in total, of which bytes_there are already cached. pictures_missing: not yet
    cached, counted once per view, since one pass computes all cuts; operations: of these passes.
    """

    backbone: str
    pixels: int
    stages: int
    after_stages: tuple[int, ...]
    views: int
    bytes: int
    bytes_there: int
    pictures_missing: int
    operations: int

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "after_stages": list(self.after_stages)}


def feature_costs(plan: Plan, backbones: LoadedBackbones) -> tuple[FeatureCost, ...]:
    """Return the cost of every backbone and size with cached features. backbones: of the plan's context."""
    shares = expected_shares(plan.selection, plan.settings, plan.split, n_trials=0)  # the views do not depend on it
    return tuple(
        _feature_cost(backbones, one, profile, shares[one.backbone.name, profile.pixels])
        for one in plan.selection.candidates
        for profile in (one.profiles if one.cuts else ())
    )


def _feature_cost(
    backbones: LoadedBackbones, one: Candidate, profile: StageProfile, share: ExpectedShare
) -> FeatureCost:
    name, size, context = one.backbone.name, profile.pixels, backbones.context
    cuts = context.cuts[name, size]
    cache = backbones.feature_cache(name, size) if one.weights.installed else None
    n_missing, n_pictures, bytes_there = 0, 0, 0
    for view, digests in _views(context, share.n_views):
        n_in_view = len(set(digests))
        missing = {cut: _n_missing(cache, cut, view, digests) if cache else n_in_view for cut in cuts}
        n_missing += max(missing.values())
        n_pictures += n_in_view
        bytes_there += sum((n_in_view - n) * bytes_per_row(profile, cut) for cut, n in missing.items())
    return FeatureCost(
        backbone=name,
        pixels=size,
        stages=profile.stages,
        after_stages=tuple(cuts),
        views=share.n_views,
        bytes=sum(bytes_per_row(profile, cut) for cut in cuts) * n_pictures,
        bytes_there=bytes_there,
        pictures_missing=n_missing,
        operations=n_missing * sum(profile.operations),
    )


def _n_missing(cache: FeatureCache, cut: int, view: int, digests: Iterable[str]) -> int:
    """Count pictures without a row. Unlike `RowStore.missing`, it does not read the rows to find damaged ones."""
    rows = cache.rows(cut, view)
    return sum(digest not in rows for digest in set(digests))


def _views(context: TrialContext, n: int) -> Iterable[tuple[int, tuple[str, ...]]]:
    """Yield each view with the pictures cached in it; validation pictures are never augmented."""
    yield 0, (*context.train.digests, *context.validation.digests)
    for view in range(1, n + 1):
        yield view, tuple(context.train.digests)
