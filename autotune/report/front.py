"""Scores against costs in a report."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from autotune.formats.cost import DeviceProfile
from autotune.report import charts
from autotune.study.front import Front, PricedTrial, find_front
from autotune.study.summary import Summary
from autotune.text import percent, plural


@dataclass(frozen=True)
class FrontSection:
    """The trials that no other beats in score, milliseconds and megabytes. words: of their hyperparameters."""

    found: Front
    rows: list[tuple[PricedTrial, str]]
    by_milliseconds: Markup
    by_megabytes: Markup


def front_section(summary: Summary, costs: DeviceProfile | None, metric: str) -> FrontSection | None:
    """Return the section; None if the networks were not measured, or no trial is complete."""
    found = find_front(summary, costs)
    if found is None:
        return None
    rows = [(one, summary.describe(one.row)) for one in found.front]
    return FrontSection(found, rows, _chart(found, "milliseconds", metric), _chart(found, "megabytes", metric))


def _chart(found: Front, what: str, metric: str) -> Markup:
    points = [
        charts.PricedPoint(getattr(one, what), one.value, one.interval, one.is_front, one == found.fastest)
        for one in found.trials
    ]
    reached = "; ".join(f"{percent(one.value)} at {getattr(one, what):.1f}" for one in found.front)
    label = f"{metric} of {plural(len(points), 'trial')} by {what}; the front: {reached}"
    return charts.priced(f"front-{what}", points, what, label)
