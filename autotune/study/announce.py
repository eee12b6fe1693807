"""How a plan is told: in lines for a person, and as an outline for a live listener."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.data.split import TEST, TRAIN, VALIDATION
from autotune.search.candidates import Candidate
from autotune.search.cost import count_cuts, describe_cut
from autotune.search.plan import Plan
from autotune.study.listener import Outline, StudyListener


def announce(listener: StudyListener, plan: Plan, n_trials: int, n_done: int) -> None:
    """Say which pictures and backbones take part, and what is planned. n_trials: in all; n_done: finished ones."""
    counts, settings, selection = plan.split.counts, plan.settings, plan.selection
    listener.say(
        f"{counts[TRAIN]} training, {counts[VALIDATION]} validation, {counts[TEST]} test pictures of "
        f"{len(plan.split.classes)} classes; {counts['skipped']} set aside."
    )
    if selection.without_weights:
        names = ", ".join(selection.without_weights)
        listener.say(f"Skipped (weights not installed): {names}. `autotune plugins` shows where they come from.")
    for name, reason in selection.left_out.items():
        if name not in selection.without_weights:
            listener.say(f"Left out: {name}: {reason}")
    for one in selection.candidates:
        sizes = ", ".join(str(size) for size in one.options.pixels)
        listener.say(f"Backbone: {one.backbone.name} at {sizes} pixels, {_depths(one)}{_weights(one)}.")
    for (name, size), cuts in count_cuts(selection, settings, plan.split, n_trials).items():
        for cut in cuts:
            listener.detail(describe_cut(name, size, cut, n_stages=cuts[-1].number))
    listener.say(
        f"Plan: {max(n_trials - n_done, 0)} trials of up to {settings.n_epochs} epochs, {settings.sampler} and "
        f"{settings.pruner}, on {selection.device}."
    )


def outline(study: str, plan: Plan, n_trials: int) -> Outline:
    """The plan in a few words."""
    counts, settings, selection = plan.split.counts, plan.settings, plan.selection
    pictures = " + ".join(str(counts[part]) for part in (TRAIN, VALIDATION, TEST))
    backbones = [
        f"{one.backbone.label}, {' or '.join(map(str, one.options.pixels))} pixels, {_depths(one)}"
        for one in selection.candidates
    ]
    facts = (
        f"{pictures} pictures of {len(plan.split.classes)} classes", *backbones,
        f"{n_trials} trials of up to {settings.n_epochs} epochs", f"on {selection.device}",
    )  # fmt: skip
    return Outline(study, facts, settings.metric, settings.n_epochs, settings.gap, selection.device)


def _weights(one: Candidate) -> str:
    """Where a backbone's weights come from, after a comma."""
    traits = one.backbone.traits
    if traits.from_scratch:
        return ""
    if one.weights.installed or (traits.weights or "").startswith("package:"):
        return f", weights {one.weights.reason}"
    return f", weights by download, {traits.megabytes or '?'} MB"


def _depths(one: Candidate) -> str:
    if one.backbone.traits.from_scratch:
        return "from scratch"
    return f"last {_span(one.depths)} of {one.n_stages} stages"


def _span(depths: Sequence[int]) -> str:
    return f"{min(depths)} to {max(depths)}" if len(depths) > 1 else str(depths[0])
