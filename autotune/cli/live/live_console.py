"""The live console: a panel at the bottom of a terminal that follows a study, below the lines it prints."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import RenderableType
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from autotune.cli.live import panel
from autotune.cli.live.console import PlainConsole
from autotune.cli.live.memory_use import memory_in_use
from autotune.cli.live.panel import PanelState, ProgressBar, RunningTrial
from autotune.study.listener import Outline
from autotune.study.storage.rows import BackboneFacts, TrialRow

if TYPE_CHECKING:
    from autotune.training.outcome import Epoch
    from autotune.training.params import Params

SOONEST = 0.25  # seconds between two redraws after events
TICKS = 1.0  # redraws per second without events, for clocks and memory
MEMORY_SECONDS = 2.0
SPARED = 2  # lines of the terminal, for printed lines


def open_console(quiet: bool, program: bool, verbose: bool) -> PlainConsole:
    """Return a live console if the terminal can show one, else a plain one."""
    plain = PlainConsole(quiet, program, verbose)
    console = plain.rich
    can_draw = console.is_terminal and console.file.isatty() and not console.is_dumb_terminal
    if quiet or program or not can_draw or console.options.ascii_only:
        return plain
    return LiveConsole(verbose=verbose)


class _ResizableLive(Live):
    """Also erases the lines that rich does not know of: those that a terminal has wrapped because it became narrower,
    and those that left its upper edge because it became lower, and came back when it grew again.
    """

    _drawn: Sequence[int] = ()  # cells of the lines of the terminal
    _height = 0  # of the terminal, when they were drawn
    _n_hidden = 0  # lines of earlier panels right above the upper edge
    _shown: RenderableType = ""

    def get_renderable(self) -> RenderableType:
        """Keep what is drawn: drawing the panel again to count its lines would double the work."""
        self._shown = super().get_renderable()
        return self._shown

    def refresh(self) -> None:
        width, height = self.console.size
        n_lines = sum(max(math.ceil(n / width), 1) for n in self._drawn)
        n_back = min(max(height - self._height, 0), self._n_hidden)
        self._n_hidden += max(n_lines - height, 0) - n_back
        if n_above := n_lines - len(self._drawn) + n_back:
            self.console.control(Control(*((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)) * n_above))
        super().refresh()
        shown = self._shown
        lines = shown.plain.split("\n") if isinstance(shown, Text) else ()
        self._drawn = [min(cell_len(line), width) for line in lines]  # rich has cropped longer ones
        self._height = height

    def forget_hidden(self) -> None:
        """A printed line follows above the panel, so hidden ones are no longer right above the upper edge."""
        self._n_hidden = 0


class LiveConsole(PlainConsole):
    """Redrawn after events and once a second. Printed lines stay above the panel."""

    def __init__(self, quiet: bool = False, program: bool = False, verbose: bool = False) -> None:
        super().__init__(quiet, program, verbose)
        self.state = PanelState()
        self._held = threading.RLock()  # the panel is also drawn in rich's thread; never held while rich is called
        self._live: _ResizableLive | None = None
        self._drawn_at = self._measured_at = float("-inf")

    def say(self, text: str = "") -> None:
        super().say(text)
        if self._live:
            self._live.forget_hidden()

    def working(self, title: str) -> None:
        with self._held:
            self.state.working = (title, time.monotonic())
        self._show(at_once=True)

    def planned(self, outline: Outline) -> None:
        with self._held:
            self.state.outline, self.state.working = outline, None
        self._show()

    def estimated(self, seconds: float) -> None:
        super().estimated(seconds)
        with self._held:
            self.state.ends = time.monotonic() + seconds
        self._show()

    def progress(self, title: str) -> Callable[[int, int], None]:
        def show(done: int, total: int) -> None:
            now = time.monotonic()
            with self._held:
                bars, self.state.working = self.state.bars, None
                bar = bars.setdefault(title, ProgressBar(title, done, total, now, now, done))
                bar.done, bar.total, bar.updated = done, total, now
                if done >= total:
                    del bars[title]
            self._show()

        return show

    def earlier(self, trials: Sequence[TrialRow], backbones: Mapping[str, BackboneFacts]) -> None:
        with self._held:
            self.state.ended = [(row, backbones[row.params.backbone].describe(row.params)) for row in trials]
        self._show()

    def started(self, number: int, params: Params, words: str, epochs: int, curve: Sequence[Epoch] = ()) -> None:
        with self._held:
            self.state.runs[number] = RunningTrial(number, words, epochs, time.monotonic(), list(curve))
        self._show()

    def epoch(self, number: int, row: Epoch) -> None:
        with self._held:
            run = self.state.runs[number]
            run.rows = [*(one for one in run.rows if one.number < row.number), row]  # the trial may have been restarted
        self._show()

    def finished(self, row: TrialRow, backbone: BackboneFacts, is_best: bool) -> None:
        with self._held:
            self.state.runs.pop(row.number, None)
            ended = (*self.state.ended, (row, backbone.describe(row.params)))
            self.state.ended = sorted(ended, key=lambda entry: entry[0].rank)
        super().finished(row, backbone, is_best)
        self._show(at_once=True)  # the finals may be over before the next tick

    def close(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None
        with self._held:
            self.state.bars, self.state.runs, self.state.working = {}, {}, None

    def _show(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._live is None:
            self._live = _ResizableLive(
                get_renderable=self.drawn, console=self.rich, refresh_per_second=TICKS, transient=True
            )
            self._live.start()
            self.rich.show_cursor()  # rich hides it, and after kill -9 it would stay hidden
        elif not at_once and now - self._drawn_at < SOONEST:
            return  # the next tick draws it
        self._drawn_at = now
        self._live.refresh()

    def drawn(self) -> Text:
        """The current panel, for the size of the terminal."""
        now = time.monotonic()
        with self._held:
            outline = self.state.outline
            if outline and now - self._measured_at >= MEMORY_SECONDS:
                self._measured_at = now
                self.state.memory = memory_in_use(outline.device)
            size = self.rich.size
            return panel.draw_panel(self.state, now, size.width, max(size.height - SPARED, 1))
