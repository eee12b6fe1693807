"""Draw docs/screen.svg, the live panel of a real study, at the largest gap in the second half of its trials.

python docs/screen.py FOLDER, in a folder where `studies/` may be written
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from autotune.cli.live.live_console import LiveConsole
from autotune.cli.views.study import show_study
from autotune.study.request import SearchRequest
from autotune.study.run import run_study
from autotune.training.outcome import Epoch

TRIALS = 20
WIDTH, HEIGHT = 110, 32
FILE = Path(__file__).with_suffix(".svg")


class RecordedConsole(LiveConsole):
    def __init__(self, command: str) -> None:
        super().__init__()
        self.rich = Console(file=io.StringIO(), force_terminal=True, width=WIDTH, height=HEIGHT)
        self._command = command
        self._lines: list[str] = []
        self._largest = float("-inf")

    def say(self, text: str = "") -> None:
        super().say(text)
        self._lines.append(text)
        print(text, file=sys.__stdout__, flush=True)

    def epoch(self, number: int, row: Epoch) -> None:
        super().epoch(number, row)
        outline = self.state.outline
        if outline and number >= TRIALS // 2 and row.number > outline.epochs // 2 and row.gap > self._largest:
            self._largest = row.gap
            self._save()

    def _save(self) -> None:
        panel = self.drawn()
        above = Console(file=io.StringIO(), width=WIDTH)
        above.print("\n".join(self._lines), markup=False, highlight=False)
        printed = above.file.getvalue().splitlines()[panel.plain.count("\n") + 1 - HEIGHT :]  # type: ignore[attr-defined]
        paper = Console(file=io.StringIO(), record=True, force_terminal=True, color_system="truecolor", width=WIDTH)
        paper.print("\n".join(printed), markup=False, highlight=False)
        paper.print(*panel.split("\n"), sep="\n", no_wrap=True, overflow="ellipsis")
        FILE.write_text(paper.export_svg(title=self._command, theme=MONOKAI), encoding="utf-8")


def main(folder: Path) -> None:
    screen = RecordedConsole(f"autotune search {folder.name} --trials {TRIALS}")
    with screen:
        found = run_study(SearchRequest(data=folder, trials=TRIALS), screen)
    show_study(found, screen)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
