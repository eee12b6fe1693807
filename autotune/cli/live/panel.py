"""The panel of a running study, drawn to fit any width and height of a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.text import Text

from autotune.cli.live.memory_use import MemoryUse
from autotune.study.listener import Outline
from autotune.study.storage.rows import COMPLETE, STATES, TrialRow
from autotune.text import duration, percent
from autotune.training.metrics import find_metric

if TYPE_CHECKING:
    from autotune.training.outcome import Epoch

BLOCKS = "▁▂▃▄▅▆▇█"
NOT_YET = "·"
LEADERS = 8
FEWEST_LEADERS = 3  # below this, other parts get smaller instead
LONGEST_CURVE = 24  # columns; a longer trial shows fewer points
WIDEST_BAR = 40
LEAST_SPAN = 0.2  # of the metric, from the bottom to the top of a curve
ROOMY = 80  # columns from which the leaderboard shows epochs and seconds
TRAIN, VALIDATION, MUTED = "cyan", "magenta", "dim"


@dataclass
class ProgressBar:
    """One task. started, updated: seconds on the panel's clock. first: what was done when it started."""

    title: str
    done: int
    total: int
    started: float
    updated: float
    first: int

    def left(self, now: float) -> float | None:
        """Seconds left, at the pace so far; None if it is not known."""
        if self.done == self.first:
            return None
        pace = (self.updated - self.started) / (self.done - self.first)
        return max(pace * (self.total - self.done) - (now - self.updated), 0.0)


@dataclass
class RunningTrial:
    """A running trial. words: its hyperparameters. epochs: at most. rows: its epochs, including those before a
    restart.
    """

    number: int
    words: str
    epochs: int
    started: float
    rows: list[Epoch] = field(default_factory=list)


@dataclass
class PanelState:
    """What the panel shows. ends: the estimated end of the study, on the panel's clock.

    working: work of unknown length, and when it started. ended: finished trials, best first, each with its
    hyperparameters in words.
    """

    outline: Outline | None = None
    ends: float | None = None
    working: tuple[str, float] | None = None
    bars: dict[str, ProgressBar] = field(default_factory=dict)
    runs: dict[int, RunningTrial] = field(default_factory=dict)
    ended: list[tuple[TrialRow, str]] = field(default_factory=list)
    memory: MemoryUse | None = None


def draw_panel(view: PanelState, now: float, width: int, height: int) -> Text:
    """Draw the most detailed form that fits `width` cells and `height` lines."""
    bars = _bars(view, now, width)
    foot = [Text(view.memory.words, MUTED)] if view.memory else []
    least_board = min(len(view.ended), FEWEST_LEADERS) + 1 if view.ended else 0
    lines: list[Text] = []
    for n_head, run in _forms(view.outline, now, width):
        head = _head(view, now, width)[:n_head]
        runs = [line for one in view.runs.values() for line in run(one)]
        lines = [*head, *bars, *runs]
        if len(lines) + len(foot) + least_board <= height:
            break
    board = _board(view, width, height - len(lines) - len(foot))
    whole = Text("\n", no_wrap=True, overflow="ellipsis").join([*lines, *board, *foot][:height])
    whole.no_wrap, whole.overflow = True, "ellipsis"
    return whole


def sparkline(values: Sequence[float | None], low: float, high: float) -> str:
    """Draw one block per value, the lowest for `low` and the highest for `high`; a dot for None."""
    if high <= low:
        return "".join(NOT_YET if value is None else BLOCKS[len(BLOCKS) // 2] for value in values)
    steps = (len(BLOCKS) - 1) / (high - low)
    return "".join(NOT_YET if value is None else BLOCKS[round((value - low) * steps)] for value in values)


def gap_colour(gap: float, limit: float) -> str:
    """Green up to half the gap that stops a trial, yellow up to that gap, then red."""
    if gap > limit:
        return "red"
    return "yellow" if gap > limit / 2 else "green"


def _forms(
    outline: Outline | None, now: float, width: int
) -> Iterable[tuple[int, Callable[[RunningTrial], list[Text]]]]:
    """Yield the lines of the head and how to draw a trial, most detailed first."""
    if outline is None:
        return [(0, lambda run: [])]
    return [
        (4, lambda run: _run(run, outline, now, width, most_lines=3)),
        (3, lambda run: _run(run, outline, now, width, most_lines=1)),
        (2, lambda run: _run(run, outline, now, width, most_lines=1)),
        (2, lambda run: [_brief(run, outline)]),
        (0, lambda run: [_brief(run, outline)]),
    ]


def _head(view: PanelState, now: float, width: int) -> list[Text]:
    """A rule below the printed lines; then the study, the time left and the plan, as many facts per line as fit."""
    if view.outline is None:
        return []
    rule = Text("─" * width, MUTED)
    facts = [*_times(view, now), *view.outline.facts]
    lines = [Text(view.outline.study, "bold")]
    for fact in facts:
        joint = ": " if len(lines) == 1 and lines[0].plain == view.outline.study else "; "
        if lines[-1].cell_len + len(joint) + len(fact) <= width:
            lines[-1].append(joint + fact, "not bold")
        else:
            lines.append(Text(fact))
    return [rule, *lines]


def _times(view: PanelState, now: float) -> list[str]:
    """Return the time left of the study and, if there is one, of its time limit, which counts down."""
    assert view.outline
    times = [] if view.ends is None else [f"about {duration(max(view.ends - now, 0.0))} left"]
    if view.outline.deadline is not None:
        times.append(f"time limit in {duration(max(view.outline.deadline - now, 0.0))}")
    return times


def _bars(view: PanelState, now: float, width: int) -> list[Text]:
    """The tasks. Once the time left of the study is known, no task has one of its own, which would contradict it."""
    bars = list(view.bars.values())
    longest = max((len(bar.title) for bar in bars), default=0)
    lines = [Text(f"{view.working[0]}, {duration(now - view.working[1])}")] if view.working else []
    for bar in bars:
        left = bar.left(now) if view.ends is None else None
        count = f" {bar.done} of {bar.total}" + ("" if left is None else f", about {duration(left)} left")
        columns = max(min(width - longest - 1 - len(count), WIDEST_BAR), 3)
        full = round(columns * bar.done / max(bar.total, 1))
        line = Text(f"{bar.title:{longest}} ")
        lines.append(line.append("━" * full, "green").append("━" * (columns - full), MUTED).append(count))
    return lines


def _run(run: RunningTrial, outline: Outline, now: float, width: int, most_lines: int) -> list[Text]:
    """A running trial: its hyperparameters in at most `most_lines` lines, then its two curves."""
    epoch = min(_reached(run) + 1, run.epochs)
    title = f"Trial {run.number}, epoch {epoch} of {run.epochs}, {duration(now - run.started)}: "
    wrapped = [title + run.words]
    if most_lines > 1:
        wrapped = textwrap.wrap(wrapped[0], width, subsequent_indent="  ", max_lines=most_lines, placeholder=" ...")
    lines = [Text(line) for line in wrapped]
    lines[0].stylize("bold", 0, len(title))
    for name, colour in (("train", TRAIN), ("validation", VALIDATION)):
        line = Text(f"  {'training' if name == 'train' else name:11}")
        line.append(_curve(run, name), colour)
        if run.rows:
            line.append(f" {percent(getattr(run.rows[-1], name)):>7}", colour)
        lines.append(line)
    if run.rows:
        gap = run.rows[-1].gap
        lines[-1].append(f"  smoothed gap {100 * gap:+.1f} points", gap_colour(gap, outline.gap))
        lines[-1].append(f" (limit {100 * outline.gap:g})", MUTED)
    return lines


def _brief(run: RunningTrial, outline: Outline) -> Text:
    """A running trial in one line."""
    line = Text(f"Trial {run.number} {min(_reached(run) + 1, run.epochs)}/{run.epochs} ")
    line.append(_curve(run, "train"), TRAIN).append(" ")
    line.append(_curve(run, "validation"), VALIDATION)
    if run.rows:
        gap = run.rows[-1].gap
        line.append(f" {percent(run.rows[-1].validation)}", VALIDATION)
        line.append(f" {100 * gap:+.1f}", gap_colour(gap, outline.gap))
    return line.append(f" {run.words}")


def _reached(run: RunningTrial) -> int:
    return run.rows[-1].number if run.rows else 0


def _curve(run: RunningTrial, name: str) -> str:
    """A trial's training or validation metric by epoch; both curves have the same scale."""
    seen = [value for row in run.rows for value in (row.train, row.validation)]
    columns = min(run.epochs, LONGEST_CURVE)
    values: list[float | None] = [None] * columns
    for row in run.rows:
        values[min((row.number - 1) * columns // run.epochs, columns - 1)] = getattr(row, name)
    low, high = min(seen, default=0.0), max(seen, default=0.0)
    if high - low < LEAST_SPAN:  # else 97.8 and 98.9 % would be the bottom and the top
        high = min((low + high + LEAST_SPAN) / 2, 1.0)
        low = high - LEAST_SPAN
    return sparkline(values, low, high)


def _board(view: PanelState, width: int, room: int) -> list[Text]:
    """The number of finished trials by state, and the best ones."""
    if not view.ended or room < 1 or view.outline is None:
        return []
    counts = ", ".join(f"{sum(row.state == state for row, _ in view.ended)} {state}" for state in STATES)
    lines = [Text(f"{len(view.ended)} finished: {counts}", "bold")]
    metric = find_metric(view.outline.metric).label
    best = [(row, words) for row, words in view.ended if row.state == COMPLETE][: min(LEADERS, room - 1)]
    labels = {words.partition(", ")[0] for _, words in best}
    longest = max((len(row.name) for row, _ in best), default=0)
    for place, (row, words) in enumerate(best):
        line = Text(f"  {row.name:>{max(longest, 4)}}  {percent(row.value):>7}  ", "" if place else "bold green")
        if width >= ROOMY:
            line.append(f"{row.epochs:3d} epochs  {row.ended:8}  {row.seconds:6.1f} s  ")
        lines.append(
            line.append(words if len(labels) > 1 else words.partition(", ")[2])
        )  # if there is only one backbone, the head names it
    if best:
        lines[0].append(f"; best {metric}:")
    return lines
