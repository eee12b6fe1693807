"""The charts of a report, as inline SVG that uses the colours and the font of the page.

To add a chart, add a function here, a field to `ReportPage` in report.py and its place in report.html.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from autotune.study.storage.rows import COMPLETE, FAILED, PRUNED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NARROW = 360  # SVG units: about the width of a phone, where text keeps its size
WIDE = 800  # for laptops
FONT = 11
FEW_VALUES = 6  # of a stepped hyperparameter: up to this number, each value has a tick
LINEAR, LOG, STEPS, CATEGORIES = "linear", "log", "steps", "categories"  # the scales of a hyperparameter
# Placeholder colours, replaced by the page's CSS variables, which differ between the light and the dark theme.
INK, MUTED, LINE = "#010101", "#020202", "#030303"
TRAIN, VALIDATION, PAPER = "#040404", "#050505", "#060606"
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", TRAIN: "train", VALIDATION: "validation", PAPER: "paper"}
# Tick factors of a log axis by the ratio of its largest to its smallest value: enough ticks, none overlapping.
_LOG_TICKS = ((300, (1,)), (10, (1, 3)), (2, (1, 2, 3, 5, 7)), (0, tuple(range(1, 10))))
_STATES: dict[str, dict[str, Any]] = {  # distinguished by shape as well as by colour
    COMPLETE: {"marker": "o", "color": TRAIN, "s": 22, "linewidths": 0, "alpha": 0.85},
    PRUNED: {"marker": "v", "facecolors": "none", "edgecolors": VALIDATION, "s": 22, "linewidths": 1.1},
    FAILED: {"marker": "x", "color": INK, "s": 26, "linewidths": 1.4},
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "autotune", "text.parse_math": False, "font.size": FONT,
    "axes.edgecolor": LINE, "axes.labelcolor": MUTED, "axes.linewidth": 0.8, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": LINE, "grid.linewidth": 0.6,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "xtick.major.size": 3, "ytick.major.size": 0, "ytick.major.pad": 5, "text.color": INK, "lines.linewidth": 2,
}  # fmt: skip


@dataclass(frozen=True)
class AxisRange:
    """The visible range of a percent axis. n_below: number of values below it, which are drawn at its edge."""

    low: float
    high: float
    n_below: int = 0

    def clipped(self, value: float) -> float:
        return max(100 * value, self.low)


@dataclass(frozen=True)
class Point:
    """One trial and its value of one hyperparameter. x: that value, or its index among the categories."""

    x: float
    value: float
    state: str


@dataclass(frozen=True)
class PricedPoint:
    """One trial, its cost and its score with an interval."""

    cost: float
    value: float
    interval: tuple[float, float]
    is_front: bool
    is_fastest: bool


def axis_range(values: Sequence[float], whole: bool = False) -> AxisRange:
    """Return an axis range for shares in [0, 1].

    Unless `whole`, outliers far below the rest are excluded, because they would compress the rest into a strip.
    """
    found = 100 * np.array(values)
    first, third = np.quantile(found, [0.25, 0.75])
    floor = min(first - 3 * (third - first), third - 5)
    if whole or found.max() - found.min() < 2 * (found.max() - floor):
        floor = found.min()
    kept = found[found >= floor]
    room = max(0.08 * (kept.max() - kept.min()), 0.6)
    return AxisRange(
        max(float(kept.min() - room), -2.0), min(float(kept.max() + room), 102.0), int((found < floor).sum())
    )


def scores(rows: Sequence[tuple[str, float]], interval: tuple[float, float] | None, label: str) -> Markup:
    """Plot named shares on one axis, the first at the top and with its interval."""

    def draw(axes: Axes) -> None:
        shares = [100 * value for _, value in rows]
        ends = [100 * edge for edge in interval or ()]
        for place, share in enumerate(shares):
            first = place == 0 and bool(ends)
            axes.plot(share, place, "o" if first else "D", ms=9 if first else 6, mew=1.6, color=TRAIN,
                      mfc=TRAIN if first else PAPER, zorder=3)  # fmt: skip
        if ends:
            axes.plot(ends, [0, 0], color=TRAIN, lw=7, alpha=0.3, solid_capstyle="butt")
        low, high = min(shares + ends), max(shares + ends)
        room = max(0.06 * (high - low), 0.5)
        axes.set_xlim(low - room, high + room)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.grid(visible=False, axis="y")
        _percent(axes.xaxis)

    return _drawn("scores", label, 34 + 26 * len(rows), draw)


def curve(name: str, train: Sequence[float], validation: Sequence[float], best: int, epochs: int, room: AxisRange,
          label: str) -> Markup:  # fmt: skip
    """Plot a trial's training and validation metric by epoch, measured and smoothed. best, epochs: counted from 1."""
    from autotune.training.metrics import smooth

    def draw(axes: Axes) -> None:
        numbers = np.arange(1, len(train) + 1)
        for values, colour, line, marker in ((train, TRAIN, (0, (4, 2)), "s"), (validation, VALIDATION, "-", "o")):
            raw = [room.clipped(value) for value in values]
            axes.plot(numbers, raw, color=colour, lw=1, alpha=0.35, marker=marker, ms=3, mew=0)
            soft = [room.clipped(value) for value in smooth(values)]
            axes.plot(numbers, soft, color=colour, linestyle=line, marker=marker if len(train) == 1 else "")
        upper, lower = ([room.clipped(v) for v in smooth(values)] for values in (train, validation))
        axes.fill_between(numbers, lower, upper, color=MUTED, alpha=0.16, linewidth=0)
        axes.axvline(best, color=MUTED, lw=1, linestyle=(0, (1, 2)))
        axes.plot(best, room.clipped(validation[best - 1]), "o", ms=9, mfc="none", mec=INK, mew=1.5)
        axes.set_xlim(0.5, epochs + 0.5)
        axes.set_ylim(room.low, room.high)
        axes.set_xlabel("epoch")
        _whole(axes.xaxis, epochs)
        _percent(axes.yaxis)

    return _drawn(name, label, 190, draw)


def history(rows: Sequence[tuple[int, str, float | None]], room: AxisRange, width: int, label: str) -> Markup:
    """Plot the values of trials by trial number, and the best complete one so far. Failed trials have no value."""

    def draw(axes: Axes) -> None:
        ordered = sorted(rows)
        best, line = -math.inf, []
        for number, state, value in ordered:
            if state == COMPLETE and value is not None:
                best = max(best, value)
            if best > -math.inf:
                line.append((number, room.clipped(best)))
        last = ordered[-1][0]
        axes.step([*(x for x, _ in line), last + 0.5], [*(y for _, y in line), line[-1][1]], where="post", color=INK,
                  lw=1.4)  # fmt: skip
        for state, look in _STATES.items():
            some = [
                (x, room.low if value is None else room.clipped(value)) for x, kind, value in ordered if kind == state
            ]
            if some:
                axes.scatter(*zip(*some, strict=True), clip_on=False, zorder=3, **look)
        axes.set_xlim(-0.7, last + 0.7)
        axes.set_ylim(room.low, room.high)
        axes.set_xlabel("trial")
        _whole(axes.xaxis, last)
        _percent(axes.yaxis)

    return _drawn(f"history-{width}", label, 230, draw, width)


def sliced(name: str, points: Sequence[Point], scale: str, categories: Sequence[str], room: AxisRange,
           label: str) -> Markup:  # fmt: skip
    """Plot trials' values by one hyperparameter: numbers along x; categories in rows, because their names are long."""
    chosen = np.array([point.x for point in points])
    spread = chosen + _spread(chosen) if scale in (STEPS, CATEGORIES) else chosen
    reached = np.array([room.clipped(point.value) for point in points])
    states = np.array([point.state for point in points])

    def draw(axes: Axes) -> None:
        for state, look in _STATES.items():
            own = states == state
            xs, ys = (reached[own], spread[own]) if categories else (spread[own], reached[own])
            axes.scatter(xs, ys, clip_on=False, zorder=3, **look)
        if categories:
            axes.set_yticks(range(len(categories)), [_short(one) for one in categories])
            axes.set_ylim(len(categories) - 0.4, -0.6)
            axes.set_xlim(room.low, room.high)
            axes.tick_params(axis="y", labelcolor=INK)
            _percent(axes.xaxis)
            return
        axes.set_ylim(room.low, room.high)
        _percent(axes.yaxis)
        _numbers(axes, chosen, scale)

    return _drawn(name, label, max(190, 40 + 26 * len(categories)), draw)


def reliability(bins: Sequence[tuple[float, int, int, float, float]], label: str) -> Markup:
    """Plot accuracy by confidence.

    bins: mean confidence, number of predictions, number of correct ones, both ends of the accuracy's interval.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=MUTED, lw=1, linestyle=(0, (4, 3)))
        most = max(n for _, n, _, _, _ in bins)
        for confidence, n, n_correct, low, high in bins:
            axes.plot([100 * confidence] * 2, [100 * low, 100 * high], color=TRAIN, lw=1.2, alpha=0.6)
            size = 18 + 90 * n / most
            axes.scatter(100 * confidence, 100 * n_correct / n, s=size, color=TRAIN, linewidths=0, zorder=3)
        axes.set_xlim(min(100 * bins[0][0] - 8, 45), 102)
        axes.set_ylim(-2, 102)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        _percent(axes.xaxis)
        _percent(axes.yaxis)

    return _drawn("reliability", label, 260, draw)


def priced(name: str, points: Sequence[PricedPoint], unit: str, label: str) -> Markup:
    """Plot scores with intervals by cost. A line joins the front, and a ring marks the fastest good trial."""
    room = axis_range([edge for point in points for edge in point.interval])

    def draw(axes: Axes) -> None:
        for point in points:
            ends = [room.clipped(edge) for edge in point.interval]
            colour = TRAIN if point.is_front else MUTED
            axes.plot([point.cost] * 2, ends, color=colour, lw=1.2, alpha=0.45)
            axes.scatter(point.cost, room.clipped(point.value), s=22, color=colour, linewidths=0, zorder=3)
            if point.is_fastest:
                axes.plot(point.cost, room.clipped(point.value), "o", ms=10, mfc="none", mec=INK, mew=1.5, zorder=4)
        front = sorted((point.cost, point.value) for point in points if point.is_front)
        best = np.maximum.accumulate([room.clipped(value) for _, value in front])
        axes.step([cost for cost, _ in front], best, where="post", color=TRAIN, lw=1.2)
        axes.set_ylim(room.low, room.high)
        axes.set_xlim(left=0, right=1.08 * max(point.cost for point in points))
        axes.set_xlabel(unit)
        axes.grid(visible=False, axis="x")
        _percent(axes.yaxis)

    return _drawn(name, label, 230, draw)


def _drawn(name: str, label: str, height: int, draw: Callable[[Axes], None], width: int = NARROW) -> Markup:
    """Draw an SVG. name: unique on the page, prefix of its ids. label: text for screen readers."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # ignore the user's matplotlibrc
        matplotlib.rcParams.update(_STYLE)  # type: ignore[arg-type, unused-ignore]  # newer stubs list every key
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inlined(file.getvalue(), name, label, width)


def _inlined(text: str, name: str, label: str, width: int) -> Markup:
    """Convert Matplotlib's SVG file to an inline element: no header, unique ids, the page's colours and font."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    largest = round(1.2 * width)
    head = f'<svg class="chart" role="img" aria-label="{escape(label)}" style="max-width: {largest}px"'
    text = re.sub(r'<svg xmlns:xlink="[^"]*" width="[^"]*" height="[^"]*"', lambda _: head, text, count=1)
    return Markup(text.replace("xlink:href", "href"))


def _percent(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    # Shares outside 0 to 100 % do not exist, so their ticks have no label.
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %" if 0 <= value <= 100 else ""))


def _whole(axis: Any, last: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(min(8, max(last, 1)), integer=True, steps=[1, 2, 5, 10]))
    axis.grid(visible=False)


def _numbers(axes: Axes, values: np.ndarray[Any, Any], scale: str) -> None:
    """Format the axis of a numeric hyperparameter."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.grid(visible=False, axis="x")
    different = np.unique(values)
    if scale == STEPS and len(different) <= FEW_VALUES:
        axes.set_xticks(different, [f"{value:g}" for value in different])
    elif scale == LOG:
        axes.set_xscale("log")
        width = float(different[-1] / different[0])
        ticks = next(ticks for least, ticks in _LOG_TICKS if width > least)
        axes.xaxis.set_major_locator(LogLocator(subs=ticks, numticks=12))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_powers_of_ten(value)))
    else:
        steps = [1, 2, 5, 10] if scale == STEPS else [1, 2, 2.5, 5, 10]
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=steps, integer=scale == STEPS))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def in_powers_of_ten(value: float) -> str:
    """Format 3e-5 as "3·10⁻⁵"; Matplotlib's own formatter writes TeX."""
    exponent = math.floor(math.log10(value) + 1e-9)
    factor = round(value / 10**exponent)
    return power_of_ten(exponent) if factor == 1 else f"{factor}·{power_of_ten(exponent)}"


def power_of_ten(exponent: int) -> str:
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _spread(places: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return small deterministic offsets that separate trials with the same value."""
    different = np.unique(places)
    closest = float(np.diff(different).min()) if len(different) > 1 else 1.0
    return (np.arange(len(places)) * 0.618 % 1 - 0.5) * 0.4 * closest


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:20]}…"
