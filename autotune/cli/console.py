"""The console: what a person sees of a study while it runs, as lines or as progress bars."""

from __future__ import annotations

import time
from typing import Self

import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn

from autotune.study.listener import Progress, StudyListener
from autotune.study.rows import FAILED, BackboneFacts, TrialRow
from autotune.text import duration, percent

PLAIN_SECONDS = 10.0  # between two lines of one piece of work where there is no terminal
PLAIN_WIDTH = 160


class PlainConsole(StudyListener):
    """Progress bars on a terminal, plain lines elsewhere, nothing when quiet; on stderr where stdout is a program's."""

    def __init__(self, quiet: bool = False, program: bool = False, verbose: bool = False) -> None:
        self._verbose = verbose
        self.rich = Console(stderr=program, quiet=quiet, highlight=False)
        if not self.rich.is_terminal:
            self.rich.width = PLAIN_WIDTH
        self._bars: rich.progress.Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[float, int]] = {}  # when, and how much was done then
        self._said: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def say(self, text: str = "") -> None:
        self.rich.print(escape(text), soft_wrap=True)

    def detail(self, text: str) -> None:
        if self._verbose:
            self.say(text)

    def progress(self, title: str) -> Progress:
        def show(done: int, total: int) -> None:
            if self.rich.is_terminal and not self.rich.quiet:
                self._show_bar(title, done, total)
            else:
                self._show_line(title, done, total)

        return show

    def estimated(self, seconds: float) -> None:
        self.say(f"About {duration(seconds)} to go.")

    def finished(self, row: TrialRow, backbone: BackboneFacts, is_best: bool) -> None:
        self.say(trial_line(row, backbone, is_best))

    def close(self) -> None:
        if self._bars:
            self._bars.stop()
            self._bars, self._tasks = None, {}

    def _show_bar(self, title: str, done: int, total: int) -> None:
        if self._bars is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bars = rich.progress.Progress(*columns, console=self.rich)
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


def trial_line(row: TrialRow, backbone: BackboneFacts, is_best: bool) -> str:
    """One finished trial: its number, value, choices, and why it ended."""
    if row.state == FAILED:
        return f"trial {row.number:3d}  failed    {row.error}"
    end = f"{row.epochs} epochs, {row.ended}, {row.seconds:.1f} s"
    mark = "  <- best so far" if is_best else ""
    return f"trial {row.number:3d}  {percent(row.value):>7}  {backbone.describe(row.params)}; {end}{mark}"
