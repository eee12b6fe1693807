"""The console: what a study prints while it runs, as lines or as progress bars."""

from __future__ import annotations

import time
from typing import Self

import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn

from autotune.study.listener import Progress, StudyListener
from autotune.study.storage.rows import FAILED, BackboneFacts, TrialRow
from autotune.text import duration, in_parts, percent, plural, visible

PLAIN_SECONDS = 10.0  # between two progress lines of one task without a terminal
PLAIN_WIDTH = 200


class PlainConsole(StudyListener):
    """Progress bars on a terminal, plain lines elsewhere, nothing if quiet; on stderr if a program reads stdout."""

    def __init__(self, quiet: bool = False, program: bool = False, verbose: bool = False) -> None:
        self._verbose = verbose
        self.rich = Console(stderr=program, quiet=quiet, highlight=False)
        if not self.rich.is_terminal:
            self.rich.width = PLAIN_WIDTH
        self._bars: rich.progress.Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, tuple[float, int]] = {}  # by title: when it started, and how much was done then
        self._printed: dict[str, float] = {}
        self._ends: float | None = None  # the estimated end of the study, on time.monotonic's clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def say(self, text: str = "") -> None:
        """Print a line; a terminal gets it wrapped between words."""
        self.rich.print(escape(visible(text)), soft_wrap=not self.rich.is_terminal)

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
        if self._ends is None:
            self.say(f"Estimated time left: {duration(seconds)}.")
        self._ends = time.monotonic() + seconds

    def finished(self, row: TrialRow, backbone: BackboneFacts, is_best: bool) -> None:
        self.say(trial_line(row, backbone, is_best))

    def close(self) -> None:
        if self._bars:
            self._bars.stop()
            self._bars, self._tasks = None, {}

    def _show_bar(self, title: str, done: int, total: int) -> None:
        if self._bars is None:
            left = TextColumn("{task.fields[left]}")
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), left)
            self._bars = rich.progress.Progress(*columns, console=self.rich)
            self._bars.start()
        if title not in self._tasks:
            self._tasks[title] = self._bars.add_task(title, total=total, left="")
        self._bars.update(self._tasks[title], completed=done, total=total, left=self._left(title, done, total))
        if done >= total:
            self._bars.remove_task(self._tasks.pop(title))
            self._started.pop(title, None)

    def _show_line(self, title: str, done: int, total: int) -> None:
        now = time.monotonic()
        left = self._left(title, done, total)
        if done >= total:
            self._started.pop(title)
            self._printed.pop(title, None)
        elif now - self._printed.setdefault(title, now) >= PLAIN_SECONDS and left:
            self._printed[title] = now
            self.say(f"{title}: {done} of {total}{left}")

    def _left(self, title: str, done: int, total: int) -> str:
        """Return the time left: of the study once it is estimated, else of this task at its pace; "" if unknown."""
        now = time.monotonic()
        started, first = self._started.setdefault(title, (now, done))
        if self._ends is not None:
            return f"; the study has about {duration(max(self._ends - now, 0.0))} left"
        return f", about {duration((now - started) / (done - first) * (total - done))} left" if done > first else ""


def trial_line(row: TrialRow, backbone: BackboneFacts, is_best: bool) -> str:
    """Describe a finished trial in one line: number, value, hyperparameters and why it ended."""
    trial = "recipe   " if row.params.is_recipe else f"trial {row.number:3d}"
    if row.state == FAILED:
        return f"{trial}  failed    {row.error}"
    end = f"{plural(row.epochs or 0, 'epoch')}, {row.ended}, {row.seconds:.1f} s"
    end += f", {in_parts(row.n_parts)}" if row.n_parts > 1 else ""
    mark = "  <- best so far" if is_best else ""
    return f"{trial}  {percent(row.value):>7}  {backbone.describe(row.params)}; {end}{mark}"
