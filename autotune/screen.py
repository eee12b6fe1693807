"""The screen: what a person sees of a study while it runs and when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from autotune import cache

if TYPE_CHECKING:
    from autotune.training import Epoch

PLAIN_SECONDS = 10.0  # between two lines of one piece of work where there is no terminal
PLAIN_WIDTH = 160
LEADERS = 10
TRIALS = "Trials"  # the title of the work that is estimated beforehand


@dataclass(frozen=True)
class Outline:
    """What a study is about to do. facts: in a few words each. epochs, gap: the most that a trial may have of them."""

    study: str
    facts: tuple[str, ...]
    metric: str
    epochs: int
    gap: float
    device: str


class Screen:
    """Progress bars on a terminal, plain lines elsewhere, nothing when quiet; on stderr where stdout is a program's."""

    def __init__(self, quiet: bool = False, program: bool = False, verbose: bool = False) -> None:
        self._verbose = verbose
        self.console = Console(stderr=program, quiet=quiet, highlight=False)
        if not self.console.is_terminal:
            self.console.width = PLAIN_WIDTH
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[float, int]] = {}  # when, and how much was done then
        self._said: dict[str, float] = {}

    def say(self, text: str = "") -> None:
        self.console.print(escape(text), soft_wrap=True)

    def detail(self, text: str) -> None:
        """Said to those who asked for more: -v."""
        if self._verbose:
            self.say(text)

    def progress(self, title: str) -> Callable[[int, int], None]:
        """A function that is told (done, total) of one piece of work."""

        def show(done: int, total: int) -> None:
            if self.console.is_terminal and not self.console.quiet:
                self._show_bar(title, done, total)
            else:
                self._show_line(title, done, total)

        return show

    def planned(self, outline: Outline) -> None:
        """A study is about to start, or to go on."""

    def estimated(self, seconds: float) -> None:
        """What is left of the study will take about so long."""
        self.say(f"About {duration(seconds)} to go.")

    def earlier(self, rows: Sequence[dict[str, Any]], arms: Mapping[str, Any]) -> None:
        """Trials that were finished before this run."""

    def started(self, number: int, words: str) -> None:
        """A trial has begun, or begins again. words: its choices."""

    def epoch(self, number: int, row: Epoch) -> None:
        """A running trial has finished an epoch."""

    def finished(self, row: dict[str, Any], arm: dict[str, Any], is_best: bool) -> None:
        """A trial has ended, failed ones too. row: as the record has it."""
        self.say(trial_line(row, arm, is_best))

    def close(self) -> None:
        """The end of the bars; what is shown later starts them anew."""
        if self._bars:
            self._bars.stop()
            self._bars, self._tasks = None, {}

    def _show_bar(self, title: str, done: int, total: int) -> None:
        if self._bars is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, console=self.console)
            self._bars.start()
        if title not in self._tasks:
            self._tasks[title] = self._bars.add_task(title, total=total)
        self._bars.update(self._tasks[title], completed=done, total=total)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(title))

    def _show_line(self, title: str, done: int, total: int) -> None:
        now = time.monotonic()
        begun, first = self._begun.setdefault(title, (now, done))
        if done >= total:
            del self._begun[title]
            self._said.pop(title, None)
        elif now - self._said.setdefault(title, begun) >= PLAIN_SECONDS and done > first:
            self._said[title] = now
            left = (now - begun) / (done - first) * (total - done)
            self.say(f"{title}: {done} of {total}, about {duration(left)} left")


def show_cache(found: dict[str, Any], screen: Screen) -> None:
    """What the cache holds, and how much it may."""
    table = Table(box=None, pad_edge=False)
    for name, side in (("pixels or bank", "left"), ("rows", "right"), ("size", "right"), ("last used", "right")):
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for row in found["entries"]:
        table.add_row(escape(row["name"]), f"{row['rows']:,}", cache.in_words(row["bytes"]), cache.ago(row["used"]))
    screen.console.print(table)
    total, most = cache.in_words(found["bytes"]), cache.in_words(found["limit"])
    screen.say(f"{total} of at most {most} in {found['folder']}")


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Seconds below two minutes, else minutes, else hours and minutes."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 / 60:.0f} min"


def in_words(params: dict[str, Any], arm: dict[str, Any]) -> str:
    """One trial's choices as a person would say them. arm: label and stages of its backbone."""
    depth, stages = params["depth"], arm["stages"]
    if arm["from_scratch"]:
        trained = "from scratch"
    else:
        trained = "head alone" if depth == 0 else f"last {depth} of {stages} stages"
    augment = f"augmentation {params['augment']:g}" if params["augment"] else "no augmentation"
    return (
        f"{arm['label']}, {trained}, {params['pixels']} pixels, {params['optimizer']} "
        f"{params['lr_low']:.1e} to {params['lr_high']:.1e} {params['cycle']}, {augment}, batch {params['batch_size']}"
    )


def trial_line(row: dict[str, Any], arm: dict[str, Any], is_best: bool) -> str:
    """One finished trial: its number, value, choices, and why it ended."""
    value = percent(row["value"])
    if row["state"] == "failed":
        return f"trial {row['number']:3d}  failed    {row['error']}"
    end = f"{row['epochs']} epochs, {row['ended']}, {row['seconds']:.1f} s"
    mark = "  <- best so far" if is_best else ""
    return f"trial {row['number']:3d}  {value:>7}  {in_words(row['params'], arm)}; {end}{mark}"


def show(summary: dict[str, Any], screen: Screen) -> None:
    """The end of a study, or `autotune status`: leaderboard, the winner in words, the test beside validation."""
    pictures, trials = summary["pictures"], summary["trials"]
    screen.say()
    screen.say(
        f"Study {summary['study']}: {pictures['train']} training, {pictures['validation']} validation and "
        f"{pictures['test']} test pictures of {len(summary['classes'])} classes; {trials['complete']} trials complete, "
        f"{trials['pruned']} pruned, {trials['failed']} failed"
    )
    if summary["best"] is None:
        screen.say("No trial is complete yet.")
        return
    screen.console.print(_leaderboard(summary))
    best = summary["best"]
    screen.say(f"Winner: trial {best['number']}, {best['words']}")
    for line in _scores(summary):
        screen.say(line)
    seconds = summary["seconds"]
    screen.say(
        f"Time: {duration(seconds['total'])} in all; reading {seconds['read']:.1f} s, bank {seconds['bank']:.1f} s, "
        f"trials {seconds['trials']:.1f} s, test {seconds['test']:.1f} s"
    )
    screen.say(f"Everything lies in {summary['folder']}: record.db, trials.db, manifest.csv, checkpoints/, logs/")
    name = summary["study"]
    screen.say(
        f"Next: autotune report {name} draws it; autotune predict {name} PICTURE... names pictures; "
        f"autotune export {name} makes a model for others; autotune search ... --trials {trials['total'] + 50} goes on"
    )


def _leaderboard(summary: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("trial", summary["metric"].replace("_", " "), "epochs", "ended", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("choices")
    for row in summary["leaderboard"][:LEADERS]:
        if row["state"] == "failed":
            continue
        numbers = (str(row["number"]), percent(row["value"]), str(row["epochs"]), row["ended"], f"{row['seconds']:.1f}")
        table.add_row(*numbers, escape(row["words"]))
    return table


def _scores(summary: dict[str, Any]) -> list[str]:
    test, metric = summary["test"], summary["metric"]
    name = metric.replace("_", " ").capitalize()
    validation = summary["best"]["value"]
    if test is None:
        return [f"{name}: validation {percent(validation)}; the test pictures have not been looked at."]
    low, high = test["value_interval"]
    looks = "once" if test["looks"] == 1 else f"{test['looks']} times"
    lines = [
        f"{name}: test {percent(test['value'])} (95 % interval {percent(low)} to {percent(high)}, n = {test['n']}), "
        f"validation {percent(validation)}: it flattered by {100 * (validation - test['value']):+.1f} points. "
        f"The test pictures were looked at {looks}."
    ]
    weak = sorted(test["per_class"].items(), key=lambda item: item[1]["recall"])[:3]
    lines.append("Weakest classes: " + ", ".join(f"{name} {one['right']} of {one['n']}" for name, one in weak))
    return lines
