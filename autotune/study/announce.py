"""Print a plan, and outline it for a live display."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from autotune.data.split import TEST, TRAIN, VALIDATION, Split
from autotune.data.visits import Visits
from autotune.search.candidates import Candidate, first_few, with_name
from autotune.search.cost import count_cuts, describe_cut
from autotune.search.plan import Plan
from autotune.study.listener import Outline, StudyListener
from autotune.text import plural
from autotune.training.params import Params, describe

SEPARATORS = ("|", ";")  # between labels of one picture, in tables


def announce(listener: StudyListener, plan: Plan, n_trials: int, n_done: int, workers: str = "") -> None:
    """Print the number of pictures, the backbones and the plan.

    n_trials: in total; n_done: already finished. workers: in words, if there are several.
    """
    counts, settings, selection = plan.split.counts, plan.settings, plan.selection
    listener.say(
        f"{counts[TRAIN]} training, {counts[VALIDATION]} validation and {counts[TEST]} test pictures in "
        f"{plural(len(plan.split.classes), 'class')}; {counts['skipped']} skipped."
    )
    for line in (several_labels_line(plan.split.classes), *visit_lines(plan.split.visits)):
        if line:
            listener.say(line)
    if selection.without_weights:
        listener.say(f"Skipped (weights not installed): {first_few(selection.without_weights)}.")
    for name, reason in selection.left_out.items():
        show = listener.detail if name in selection.without_weights else listener.say
        show(f"Skipped: {with_name(name, reason)}")
    for one in selection.candidates:
        sizes = ", ".join(str(size) for size in one.options.pixels)
        listener.say(f"Backbone: {one.backbone.name} at {sizes} pixels, {_depths(one)}{_weights(one)}.")
    if plan.recipe:
        listener.say(f"Recipe, the first trial: {_recipe(plan.recipe, selection.candidates)}.")
    for (name, size), cuts in count_cuts(selection, settings, plan.split, n_trials).items():
        for cut in cuts:
            listener.detail(describe_cut(name, size, cut, n_stages=cuts[-1].number))
    listener.say(
        f"Plan: {_left(n_trials, n_done)} of up to {plural(settings.n_epochs, 'epoch')}, "
        f"sampler {settings.sampler}, pruner {settings.pruner}, on {selection.device}"
        + (f"; {workers}." if workers else ".")
    )


def visit_lines(visits: Visits) -> list[str]:
    """Say how pictures are grouped by visit; nothing if they are not."""
    if not visits.n:
        return []
    lines = [f"{visits.words}; each is in one set only."]
    if visits.by_picture:
        few = first_few(visits.by_picture)
        lines.append(f"Split by picture, because of too few visits: {few}. The test score of these says less.")
    if visits.crossing:
        lines.append(
            f"{plural(visits.crossing, 'visit')} of {visits.n} have pictures in several of the given sets: the test "
            "score may be too high for pictures of other visits."
        )
    return lines


def several_labels_line(classes: Sequence[str]) -> str:
    """Warn of classes that seem to be several labels of a picture, like Lemon|citrus; "" if there are none."""
    joined = [name for name in classes if any(separator in name for separator in SEPARATORS)]
    if not joined:
        return ""
    return (
        f"{plural(len(joined), 'class')} may be several labels of a picture ({', '.join(joined[:3])}): each is one "
        "class here, and a picture gets one."
    )


def look_alike_lines(look_alikes: Mapping[str, Sequence[str]], split: Split) -> list[str]:
    """Warn of classes of which most pictures look like one scene, unless they are of several known visits."""
    pool = (*split.part(TRAIN), *split.part(VALIDATION))
    n_pictures = Counter(picture.label for picture in pool)
    groups = {picture.digest: picture.group for picture in pool}
    return [
        f"{len(digests)} of {label}'s {n_pictures[label]} training and validation pictures look like one scene. If "
        f"they are of one visit, the score of {label} says little about other visits."
        for label, digests in look_alikes.items()
        if not split.visits.n or len({groups.get(digest) for digest in digests}) == 1
    ]


def outline(study: str, plan: Plan, n_trials: int, deadline: float | None) -> Outline:
    """Summarise a plan. n_trials: in total. deadline: as in Outline."""
    counts, settings, selection = plan.split.counts, plan.settings, plan.selection
    pictures = " + ".join(str(counts[part]) for part in (TRAIN, VALIDATION, TEST))
    backbones = [
        f"{one.backbone.label}, {' or '.join(map(str, one.options.pixels))} pixels, {_depths(one)}"
        for one in selection.candidates
    ]
    facts = (
        f"{pictures} pictures in {plural(len(plan.split.classes), 'class')}", *backbones,
        f"{plural(n_trials, 'trial')} of up to {plural(settings.n_epochs, 'epoch')}", f"on {selection.device}",
    )  # fmt: skip
    return Outline(study, facts, settings.metric, settings.n_epochs, settings.gap, selection.device, deadline)


def _recipe(params: Params, candidates: Sequence[Candidate]) -> str:
    one = next(one for one in candidates if one.backbone.name == params.backbone)
    return describe(params, one.backbone.label, one.n_stages, one.backbone.traits.from_scratch)


def _left(n_trials: int, n_done: int) -> str:
    """Return "50 trials", or "29 of 50 trials left"."""
    return f"{max(n_trials - n_done, 0)} of {plural(n_trials, 'trial')} left" if n_done else plural(n_trials, "trial")


def _weights(one: Candidate) -> str:
    """Return the source of a backbone's weights, after a comma."""
    traits = one.backbone.traits
    if traits.from_scratch:
        return ""
    if one.weights.installed or (traits.weights or "").startswith("package:"):
        return f", weights {one.weights.reason}"
    return f", weights to be downloaded, {traits.megabytes or '?'} MB"


def _depths(one: Candidate) -> str:
    if one.backbone.traits.from_scratch:
        return "from scratch"
    if max(one.depths) == 0:
        return "head only"
    unfrozen = "last" if tuple(one.depths) == (1,) else f"last {_span(one.depths)}"
    return f"{unfrozen} of {one.n_stages} stages unfrozen"


def _span(depths: Sequence[int]) -> str:
    return f"{min(depths)} to {max(depths)}" if len(depths) > 1 else str(depths[0])
